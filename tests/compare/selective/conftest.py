"""Made-up cells, in which every policy has the score that a test gives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from archlab.compare.selective.policies import LABELS, TRIGGERS, budgets_of
from archlab.compare.selective.protocol import BASE
from archlab.compare.selective.scoring import CIDER, READINGS
from archlab.config import to_dict
from archlab.data.streams.stream import StreamConfig

BUDGETS = (0.5, 1.0, 2.0)
ANNOTATIONS = (8, 12, 10)
FRAMES = (100, 100, 100)
FACTS = "caption/slots"

Scores = Mapping[str, float | Mapping[float, float]]
MakeCell = Callable[..., dict[str, Any]]


@pytest.fixture
def make_cell() -> MakeCell:
    """`make_cell(scores, seed, condition, rates)`: scores and decodes per event by policy; a mapping is a curve.

    Policies without a score have 0.4. Every stream has the same score but for a ripple that all policies share.
    """

    def make(
        scores: Scores, seed: int = 0, condition: str = BASE, rates: Mapping[str, Mapping[float, float]] | None = None
    ) -> dict[str, Any]:
        def score(policy: str, budget: float) -> float:
            given = scores.get(policy, 0.4)
            if not isinstance(given, Mapping):
                return given
            return float(np.interp(rate_of(policy, budget), list(given), list(given.values())))

        def rate_of(policy: str, budget: float) -> float:
            return (rates or {}).get(policy, {}).get(budget, budget)

        def sums(value: float, sizes: tuple[int, ...]) -> dict[str, list[float]]:
            ripple = [0.02, -0.01, 0.0]
            of_streams = [size * (value + own) for size, own in zip(sizes, ripple, strict=True)]
            return {FACTS: of_streams, CIDER: [2 * one for one in of_streams]}

        def place(policy: str, budget: float) -> dict[str, Any]:
            rate = rate_of(policy, budget)
            both = {"paired": ANNOTATIONS, "dense": FRAMES}
            counts = {"waited": [10, 20, 30], "cuts": [8, 10, 12], "found": [7, 11, 3], "delays": [14, 0, 7]}
            return (
                {"decodes": [rate * count for count in ANNOTATIONS]}
                | counts
                | {reading: sums(score(policy, budget), sizes) for reading, sizes in both.items()}
            )

        timing = {"encoder": 2.0, "predictor": 1.0, "decoder": 3.0, "decide": 0.5, "decodes": 20, "events": 20}
        return {
            "key": f"{seed}-{condition}",
            "condition": condition,
            "seed": seed,
            "git": "0123456789abcdef-dirty",
            "created": "2026-01-02T03:04:05",
            "machine": {"cpu": "a | b"},
            "streams": to_dict(StreamConfig()),
            "annotations": list(ANNOTATIONS),
            "frames": list(FRAMES),
            "facts": FACTS,
            "tuned": {
                name: {
                    f"{b:g}": {"threshold": 0.5, "window": 4, "settle": 1, "rate": b} for b in budgets_of(name, BUDGETS)
                }
                for name in TRIGGERS
            },
            "policies": {
                policy: {f"{budget:g}": place(policy, budget) for budget in budgets_of(policy, BUDGETS)}
                for policy in LABELS
            },
            "controls": {"another": {reading: sums(0.1, ANNOTATIONS) for reading in READINGS}},
            "timing": {policy: dict(timing) for policy in LABELS} if condition == BASE else {},
        }

    return make
