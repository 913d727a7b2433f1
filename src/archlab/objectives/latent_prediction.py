"""The objective of I-JEPA and V-JEPA: distance between predicted and actual states of hidden patches.

Shape legend: B samples, N patches, K sets of m wanted patches, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab.layers.embeddings import take
from archlab.models.latent_prediction import LatentPredictor
from archlab.objectives.output import Output

if TYPE_CHECKING:
    from archlab.data.patch_masks import PatchMasks

DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"smooth-l1": F.smooth_l1_loss, "l1": F.l1_loss}
"""Mean over all values. I-JEPA's paper says L2 and its code smooth L1, which is meant here; V-JEPA's is L1."""


class HasMasks(Protocol):
    """A batch of pictures or clips, and the ways in which patches of them are hidden, one after the other."""

    @property
    def inputs(self) -> Tensor: ...

    @property
    def masks(self) -> Sequence[PatchMasks]: ...


class LatentPrediction(nn.Module):
    """Predict the states that the target encoder has for hidden patches, having seen the whole input.

    Args:
        distance: of `DISTANCES`.
    """

    def __init__(self, distance: Literal["smooth-l1", "l1"]) -> None:
        super().__init__()
        self.distance = DISTANCES[distance]

    def forward(self, model: LatentPredictor, batch: HasMasks) -> Output:
        """`loss` is the mean over the ways of hiding."""
        states = model.targets(batch.inputs)  # (B, N, D)
        losses = []
        for number, masks in enumerate(batch.masks):
            predicted = model(batch.inputs, masks.context, masks.targets, number)  # (B, K, m, D)
            wanted = take(states, masks.targets.flatten(1)).view(predicted.shape)
            losses.append(self.distance(predicted.float(), wanted))
        loss = torch.stack(losses).mean()
        return Output(loss, {"prediction": loss.detach()})
