"""What the service promises under load, and whether the last run kept it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from archlab.bench.serve.peers.variants import LITSERVE, SESSION, TORCH
from archlab.compare.scores import NAMES

LEAST_THROUGHPUT = 1000.0
LEAST_TIMES = 1.5
LEAST_OF_FLOOR = 0.9
MOST_CACHED = 0.01
"""Share of texts from the cache up to which a search counts as uncached."""

_EQUAL = 1.0


@dataclass(frozen=True)
class Goal:
    """One promise.

    Attributes:
        text: what is promised.
        found: what was measured.
        kept: whether it holds.
    """

    text: str
    found: str
    kept: bool


def goals(results: Mapping[str, Any]) -> list[Goal]:
    """All of them, for results of `bench serve`."""
    best, limit = results["capacity"]["best"], results["plan"]["goal_ms"]
    rate = best["throughput_per_s"] if best else 0.0
    uncached = all(results["cache"][where]["share"] <= MOST_CACHED for where in ("without", "side_by_side"))
    found = [
        Goal(
            f"text search, uncached: {LEAST_THROUGHPUT:,.0f} requests/s, p95 under {limit:g} ms, no error",
            f"{rate:,.0f} requests/s, p95 {best['p95_ms']:.0f} ms" if best else "no step kept the limit",
            rate >= LEAST_THROUGHPUT and uncached,
        )
    ]
    for arm, pictures in results["scenarios"]["classify"].items():
        share, errors = pictures["share_of_floor"], pictures["errors"]
        found.append(
            Goal(
                f"pictures, {NAMES[arm]}: {LEAST_OF_FLOOR:.0%} of what decoding and computing alone allow, no error",
                f"{share:.0%}, {errors} errors",
                share >= LEAST_OF_FLOOR and not errors,
            )
        )
    for peer, least in ((LITSERVE, LEAST_TIMES), (TORCH, LEAST_TIMES), (SESSION, _EQUAL)):
        text = f"{peer}: no slower"
        if least > _EQUAL:
            text = f"{peer}: {least:g} times its throughput at equal or better p95"
        if (beside := results["side_by_side"].get(peer)) is None:
            found.append(Goal(text, "not measured", kept=False))
            continue
        # Of the whole interval: where it reaches to the wrong side of the bound, the rounds do not support the claim.
        rates, slow = beside["times_throughput"], beside["times_p95"]
        kept = rates["low"] >= least and (least == _EQUAL or slow["high"] <= _EQUAL)
        shown = f"{times(rates)} the throughput, {times(slow)} the p95"
        found.append(Goal(text, shown, kept and uncached and not beside["errors"]))
    return found


def times(ratio: Mapping[str, float]) -> str:
    """A ratio with its interval."""
    return f"{ratio['value']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}] times"
