"""Invertible changes between tensors of a checkpoint file and ours.

They only move entries, never compute with them: a round trip is exact, and gradients travel like weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]


class Transform(Protocol):
    """Both directions; a wrong number or shape of tensors is a `RuntimeError`, as PyTorch's own."""

    def to_ours(self, theirs: Tensors) -> Tensors:
        """Our tensors of theirs."""
        ...

    def to_theirs(self, ours: Tensors) -> Tensors:
        """Their tensors of ours."""
        ...


@dataclass(frozen=True)
class Same:
    """Nothing changes but the name."""

    def to_ours(self, theirs: Tensors) -> Tensors:
        """See `Transform`."""
        return theirs

    def to_theirs(self, ours: Tensors) -> Tensors:
        """See `Transform`."""
        return ours


@dataclass(frozen=True)
class Transposed:
    """Matrices (out, in) here are (in, out) there."""

    def to_ours(self, theirs: Tensors) -> Tensors:
        """See `Transform`."""
        return tuple(tensor.transpose(0, 1) for tensor in theirs)

    def to_theirs(self, ours: Tensors) -> Tensors:
        """See `Transform`."""
        return self.to_ours(ours)


@dataclass(frozen=True)
class Fused:
    """Several of our tensors are one there, one after the other along the first axis.

    Attributes:
        rows: of each of ours.
    """

    rows: tuple[int, ...]

    def to_ours(self, theirs: Tensors) -> Tensors:
        """See `Transform`."""
        (whole,) = theirs
        return whole.split(self.rows)

    def to_theirs(self, ours: Tensors) -> Tensors:
        """See `Transform`."""
        return (torch.cat(ours),)


@dataclass(frozen=True)
class Reshaped:
    """The same entries in the same order under another shape."""

    ours: tuple[int, ...]
    theirs: tuple[int, ...]

    def to_ours(self, theirs: Tensors) -> Tensors:
        """See `Transform`."""
        for tensor in theirs:
            if tensor.shape != self.theirs:
                raise RuntimeError(f"shape {tuple(tensor.shape)} is not {self.theirs}")
        return tuple(tensor.reshape(self.ours) for tensor in theirs)

    def to_theirs(self, ours: Tensors) -> Tensors:
        """See `Transform`."""
        return tuple(tensor.reshape(self.theirs) for tensor in ours)


@dataclass(frozen=True)
class Chained:
    """One after the other, named in the direction from theirs to ours."""

    steps: tuple[Transform, ...]

    def to_ours(self, theirs: Tensors) -> Tensors:
        """See `Transform`."""
        for step in self.steps:
            theirs = step.to_ours(theirs)
        return theirs

    def to_theirs(self, ours: Tensors) -> Tensors:
        """See `Transform`."""
        for step in reversed(self.steps):
            ours = step.to_theirs(ours)
        return ours
