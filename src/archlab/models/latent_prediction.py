"""What I-JEPA (arXiv 2301.08243) and V-JEPA (arXiv 2404.08471) share: predict the states of hidden patches.

Shape legend: B samples, N patches, n given patches, K sets of m wanted patches, D width.
"""

from __future__ import annotations

import copy
from typing import Protocol

from torch import Tensor, nn
from torch.nn import functional as F


class FillsIn(Protocol):
    """A predictor of hidden states: `models.ijepa.Predictor`, `models.vjepa.Predictor`."""

    def fill(self, given: Tensor, context: Tensor, targets: Tensor, *, mask_token: int) -> Tensor:
        """States (B, n, D) at `context` (B, n) to states (B, m, D) at `targets` (B, m)."""
        ...


class LatentPredictor(nn.Module):
    """An encoder of the visible patches, a predictor of the others, and the encoder whose states are its targets.

    Args:
        encoder: pictures or clips, and optionally the indices (B, n) of patches to encode -> states (B, N or n, D).
        predictor: see `FillsIn`.
        trained_target: let the encoder itself make the targets, gradient included, which nothing then keeps from
            collapsing. By default they come from a copy that only `train.ema.TargetAverage` moves.

    Attributes:
        target: makes the targets; the encoder that is kept.
    """

    def __init__(self, encoder: nn.Module, predictor: nn.Module, *, trained_target: bool = False) -> None:
        super().__init__()
        self.encoder, self.predictor = encoder, predictor
        self.average = None if trained_target else copy.deepcopy(encoder).requires_grad_(False)

    @property
    def target(self) -> nn.Module:
        return self.encoder if self.average is None else self.average

    def targets(self, inputs: Tensor) -> Tensor:
        """States of all patches of the whole input, each normalised by its own mean and deviation: (B, N, D)."""
        states = self.target(inputs)  # no gradient in the copy, whose parameters ask for none
        return F.layer_norm(states.float(), states.shape[-1:])

    def forward(self, inputs: Tensor, context: Tensor, targets: Tensor, mask_token: int = 0) -> Tensor:
        """Predict the states at `targets` from the patches at `context` alone.

        Args:
            inputs: pictures or clips.
            context: (B, n).
            targets: (B, K, m); each set is predicted by itself.
            mask_token: number of the way in which patches were hidden.

        Returns:
            (B, K, m, D).
        """
        sets = targets.shape[1]
        given = self.encoder(inputs, context).repeat_interleave(sets, 0)  # (B * K, n, D)
        places = context.repeat_interleave(sets, 0)
        predictor: FillsIn = self.predictor  # type: ignore[assignment]  # modules do not say what else they have
        return predictor.fill(given, places, targets.flatten(0, 1), mask_token=mask_token).unflatten(0, (-1, sets))
