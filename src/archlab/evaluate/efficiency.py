"""Training efficiency off learning curves: cost to reach a score, and where training has converged.

A curve is a list of checkpoints scored on the validation split, earliest first: {"step", "samples", "flops", "seconds",
"mean", ...}. Only measured scores count: a cost is that of the first checkpoint at or above the threshold, without
interpolation, and therefore an upper bound; the checkpoint before bounds it from below. That a curve may fall back
later is not held against it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Curve = Sequence[Mapping[str, Any]]
FRACTIONS = (0.5, 0.75, 0.9)
CONVERGED = 0.01
"""A checkpoint has converged when it is at most this share below the final score."""


def thresholds(curves: Sequence[Curve], chance: float = 0.0) -> list[float]:
    """Round scores that every arm reaches: 50, 75 and 90 % of the way from chance to the lower of the final scores.

    Rounded down to two significant digits, so that the arm which sets them reaches them too. Empty where the lower
    final score is not above chance: there is nothing to compare.
    """
    final = min((curve[-1]["mean"] for curve in curves if curve), default=chance)
    rounded = {_round_down(chance + fraction * (final - chance)) for fraction in FRACTIONS}
    return sorted(value for value in rounded if value > chance)


def reach(curve: Curve, threshold: float) -> dict[str, float] | None:
    """Cost of reaching a score.

    Returns:
        {"samples", "flops", "seconds", "samples_before"}: of the first checkpoint at or above `threshold`, and the
        samples of the checkpoint before it (0 at the first): the score was crossed in between. None if never reached.
    """
    before = 0
    for point in curve:
        if point["mean"] >= threshold:
            return {key: point[key] for key in ("samples", "flops", "seconds")} | {"samples_before": before}
        before = point["samples"]
    return None


def efficiency(metric: str, curves: Mapping[str, Curve], chance: float = 0.0) -> list[dict[str, Any]]:
    """Rows of the efficiency table: {"metric", "threshold", arm: cost or None}, one for each threshold."""
    return [
        {"metric": metric, "threshold": threshold} | {arm: reach(curve, threshold) for arm, curve in curves.items()}
        for threshold in thresholds(list(curves.values()), chance)
    ]


def converged_step(curve: Curve) -> int | None:
    """Step of the first checkpoint within 1 % (relative) of the final score, or above it.

    None for an empty curve or a final score of zero. The last step means that convergence was not seen.
    """
    if not curve or curve[-1]["mean"] <= 0:
        return None
    enough = (1 - CONVERGED) * curve[-1]["mean"]
    return next(int(point["step"]) for point in curve if point["mean"] >= enough)


def _round_down(value: float) -> float:
    """To two significant digits, towards zero; 0 for what is not positive."""
    if value <= 0:
        return 0.0
    digits = 1 - math.floor(math.log10(value))
    # The tolerance keeps 0.29 (0.28999... in binary) at 0.29.
    return round(math.floor(value * 10.0**digits * (1 + 1e-12)) / 10.0**digits, digits)
