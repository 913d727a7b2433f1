"""What parity measured."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from archlab.layers.attention import Implementation

Outcome = tuple[float, bool, str]
"""Of a comparison: the largest error, whether all is within the tolerance, and where."""


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """|ours - theirs| <= absolute + relative |theirs|, for every entry."""

    absolute: float
    relative: float


STATES = Tolerance(absolute=1e-5, relative=1e-5)
GRADIENTS = Tolerance(absolute=1e-4, relative=1e-4)
EXACT = Tolerance(absolute=0.0, relative=0.0)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One comparison.

    Attributes:
        name: what was compared.
        attention: the implementation that ours ran with.
        error: the largest |ours - theirs|; 0 or 1 where the comparison is exact.
        passed: whether every entry is within the tolerance.
        where: the tensor, or the layer, that is furthest off, or the first one that fails.
    """

    name: str
    attention: Implementation
    error: float
    passed: bool
    where: str


@dataclass(frozen=True, kw_only=True)
class Control:
    """What became of a planted bug.

    Attributes:
        fault: the bug.
        attention: the implementation that ours ran with.
        noticed: whether the comparison failed, as it must.
        first: the first layer that diverged.
        cause: the likely cause that `--explain` would name.
    """

    fault: str
    attention: Implementation
    noticed: bool
    first: str
    cause: str


@dataclass(frozen=True, kw_only=True)
class FamilyResult:
    """Parity of one family.

    Attributes:
        variant: of its variants; empty for the tiny configuration itself.
        explanation: the first layer that diverges and the likely cause; empty where all is equal.
    """

    family: str
    variant: str
    checks: tuple[Check, ...]
    controls: tuple[Control, ...]
    explanation: str

    @property
    def label(self) -> str:
        """Name for tables."""
        return f"{self.family} ({self.variant})" if self.variant else self.family

    @property
    def passed(self) -> bool:
        """All is equal, and every planted bug was noticed."""
        return all(check.passed for check in self.checks) and all(control.noticed for control in self.controls)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self) | {"passed": self.passed}


def within(ours: Tensor, theirs: Tensor, tolerance: Tolerance) -> tuple[float, bool]:
    """The largest difference, and whether all is within the tolerance; NaN, infinity, another shape are not."""
    if ours.shape != theirs.shape:
        return float("inf"), False
    difference = (ours - theirs).detach().abs()
    limit = tolerance.absolute + tolerance.relative * theirs.detach().abs()
    return float(difference.max()), bool(torch.all((difference <= limit) & theirs.isfinite()))
