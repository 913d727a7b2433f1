"""How many users a service bears: steps of a closed loop, doubled until the goal breaks, then halved in between."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

_FIGURES = ("throughput_per_s", "p50_ms", "p95_ms", "p99_ms", "idle_share", "generator_cores")

Step = Mapping[str, Any]
"""What `record.Record.summary` gives for so many users."""

_CLOSE = 1.25  # users of the first step that breaks over those of the last that holds: near enough


def find_capacity(
    measure: Callable[[int], Step], *, goal_ms: float, first: int = 8, most: int = 256, sweeps: int = 1
) -> tuple[list[Step], Step | None]:
    """Search for the largest load that keeps the goal.

    Args:
        measure: runs a step with so many users.
        goal_ms: the 95th percentile that must not be reached.
        first, most: users of the first step, and of the largest.
        sweeps: times that every step is measured: as it is searched for, and then from the fewest users to the most
            again, as the speed of a shared machine changes from minute to minute.

    Returns:
        every step in the order of its users, see `typical`, and the one with the highest throughput among those that
        keep the goal; None where none does.
    """
    steps: dict[int, Step] = {}

    def holds(users: int) -> bool:
        if users not in steps:
            steps[users] = measure(users)
        return keeps(steps[users], goal_ms)

    low, high = 0, min(first, most)
    while high < most and holds(high):
        low, high = high, min(2 * high, most)
    if not holds(high):
        while high > max(1, low) * _CLOSE and (middle := (low + high) // 2) not in (low, high):
            low, high = (middle, high) if holds(middle) else (low, middle)
    measured = {users: [steps[users]] for users in sorted(steps)}
    for _ in range(sweeps - 1):
        for users, own in measured.items():
            own.append(measure(users))
    ordered: list[Step] = [{"users": users, **typical(own)} for users, own in measured.items()]
    return ordered, best(ordered, goal_ms)


def typical(steps: Sequence[Step]) -> dict[str, Any]:
    """The median of every figure of steps under the same load; "requests" and "errors" of all; "rounds", the steps."""
    values = {key: [step[key] for step in steps if key in step] for key in _FIGURES}  # no times without a request
    found: dict[str, Any] = {key: float(np.median(own)) for key, own in values.items() if own}
    found |= {key: sum(step[key] for step in steps) for key in ("requests", "errors")}
    return found | {"rounds": [dict(step) for step in steps]}


def keeps(step: Step, goal_ms: float) -> bool:
    """Whether a step had requests, no error, and a 95th percentile under the goal."""
    return not step["errors"] and step["requests"] > 0 and step["p95_ms"] < goal_ms


def best(steps: Sequence[Step], goal_ms: float) -> Step | None:
    """The step with the highest throughput among those that keep the goal."""
    kept = [step for step in steps if keeps(step, goal_ms)]
    return max(kept, key=lambda step: step["throughput_per_s"], default=None)
