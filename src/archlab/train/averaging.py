"""Averages of the weights over training steps: what is evaluated and kept instead of the last weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class WeightAverage(Protocol):
    """Follows the weights of a model through training."""

    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after `step` updates, counted from 1."""
        ...

    def weights(self) -> Mapping[str, Tensor]:
        """The average by name of the parameter; empty before there is one."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> None: ...


class ExponentialAverage:
    """Exponential moving average (EMA): after every update, average += (1 - decay) * (weights - average).

    The decay of step t is at most (1 + t) / (10 + t), so that the random start is soon forgotten.

    Args:
        decay: less than 1; 1 / (1 - decay) is about the number of steps that it looks back.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """See `WeightAverage.update`."""
        if not self.average:
            self.average = _copy(model)
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in model.named_parameters():
            self.average[name].lerp_(parameter, 1 - decay)

    def weights(self) -> Mapping[str, Tensor]:
        """See `WeightAverage.weights`."""
        return self.average

    def state_dict(self) -> dict[str, Any]:
        """The average."""
        return {"average": self.average}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Continue from a saved average."""
        self.average = dict(state["average"])


class CheckpointAverage:
    """Mean of the last checkpoints ("Attention is all you need", section 6.1: five for the base model).

    Args:
        every: steps from one checkpoint to the next.
        last: number of checkpoints that are averaged.
    """

    def __init__(self, every: int, last: int) -> None:
        self.every, self.last = every, last
        self.checkpoints: list[dict[str, Tensor]] = []

    def update(self, model: nn.Module, step: int) -> None:
        """See `WeightAverage.update`."""
        if step % self.every == 0:
            self.checkpoints = [*self.checkpoints, _copy(model)][-self.last :]

    def weights(self) -> Mapping[str, Tensor]:
        """See `WeightAverage.weights`."""
        if not self.checkpoints:
            return {}
        return {name: torch.stack([one[name] for one in self.checkpoints]).mean(0) for name in self.checkpoints[0]}

    def state_dict(self) -> dict[str, Any]:
        """The checkpoints."""
        return {"checkpoints": self.checkpoints}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Continue from saved checkpoints."""
        self.checkpoints = list(state["checkpoints"])


@contextmanager
def averaged(model: nn.Module, average: WeightAverage | None) -> Iterator[None]:
    """Lend the model the averaged weights inside the block; without an average nothing changes."""
    weights = average.weights() if average is not None else {}
    kept = _copy(model) if weights else {}
    _fill(model, weights)
    try:
        yield
    finally:
        _fill(model, kept)


def keep_average(model: nn.Module, average: WeightAverage | None) -> None:
    """Give the model the averaged weights for good, if there are any."""
    if average is not None:
        _fill(model, average.weights())


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}  # shared ones once


@torch.no_grad()
def _fill(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    for name, value in weights.items():
        parameters[name].copy_(value)
