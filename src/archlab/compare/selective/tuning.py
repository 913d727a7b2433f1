"""Thresholds of the trigger, tuned on validation streams to a number of decodes per event. The truth of what was said
plays no part: only how often something is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from archlab.compare.selective.policies import View, triggered, watch
from archlab.compare.selective.recording import Recording
from archlab.compare.selective.trigger import TriggerConfig

_STEPS = 14  # of the bisection: thresholds are found to less than a percent
_LEAST = 1e-6  # of the largest possible cost: the lowest threshold that is tried


@dataclass(frozen=True)
class Tuned:
    """A trigger and how often it decodes validation streams, per event."""

    config: TriggerConfig
    rate: float

    def settled(self, settle: int) -> Tuned:
        """The same trigger, waiting: it speaks of the same segments."""
        return replace(self, config=replace(self.config, settle=settle))


def tune(
    recordings: Sequence[Recording], view: View, budgets: Sequence[float], config: TriggerConfig
) -> dict[float, Tuned]:
    """The trigger whose number of decodes per event is nearest to each budget, over all recordings together.

    Args:
        recordings: of validation streams.
        config: of the trigger; its threshold is replaced.
    """
    seen = [_compact(watch(recording, view)) for recording in recordings]
    events = sum(len(recording.stream.segments) for recording in recordings)
    longest = max(float(np.square(rows).sum(1).max()) for rows in seen)
    most = 4 * config.window * longest or 1.0  # no frames are further apart, and no more of them count
    rates: dict[float, float] = {}

    def rate(threshold: float) -> float:
        if threshold not in rates:
            trigger = replace(config, threshold=threshold)
            rates[threshold] = sum(len(triggered(rows, trigger)) for rows in seen) / events
        return rates[threshold]

    found = {}
    for budget in budgets:
        low, high = _LEAST * most, most
        for _ in range(_STEPS):
            middle = float(np.sqrt(low * high))
            low, high = (middle, high) if rate(middle) > budget else (low, middle)
        best = min(rates, key=lambda threshold: (abs(rates[threshold] - budget), threshold))
        found[budget] = Tuned(replace(config, threshold=best), rates[best])
    return found


def _compact(rows: np.ndarray) -> np.ndarray:
    """Rows in coordinates of the space that they span: the same distances in fewer numbers, (n, at most n)."""
    if rows.shape[1] <= len(rows):
        return rows
    triangle: np.ndarray = np.linalg.qr(rows.T.astype(np.float64), mode="r")  # type: ignore[assignment]  # an array
    return triangle.T
