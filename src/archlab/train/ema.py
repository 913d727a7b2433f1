"""The target encoder of a JEPA: an exponential moving average (EMA) of the encoder that is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class TargetAverage:
    """After every update of a `LatentPredictor`, average += (1 - momentum) * (encoder - average), in place.

    A `train.averaging.WeightAverage` that has no weights to lend: the average is a part of the model, is saved with it,
    and is what evaluations look at anyway.

    Args:
        momentum: of the first update; it rises in a line and would reach 1 after the last (I-JEPA, arXiv 2301.08243,
            appendix A.1: from 0.996).
        steps: updates in all.
    """

    def __init__(self, momentum: float, steps: int) -> None:
        self.momentum, self.steps = momentum, steps

    def momentum_of(self, step: int) -> float:
        """Momentum of an update, counted from 1."""
        return self.momentum + (1 - self.momentum) * (step - 1) / self.steps

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """See `WeightAverage.update`."""
        followed, average = (model.get_submodule(name).parameters() for name in ("encoder", "average"))
        for source, target in zip(followed, average, strict=True):
            target.lerp_(source, 1 - self.momentum_of(step))

    def weights(self) -> Mapping[str, Tensor]:
        """None: nothing is exchanged for evaluations."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Nothing: both encoders are saved with the model."""
        return {}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Nothing to load."""
