"""From cells to statements: estimates over seeds, differences of arms, and whether what was predicted holds.

An interval is Student's over seeds, which are few: it is wide with three, and there is none with one. A difference is
taken seed by seed, between runs that began with one backbone and read the same batches. It is decided with three seeds
or more, where the interval excludes zero and all seeds agree in sign.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from archlab.compare.grid.cells import Row, place
from archlab.compare.grid.conditions import Condition
from archlab.compare.grid.protocol import Expectation, Levels, Protocol
from archlab.compare.scores import metric_label
from archlab.evaluate.monitor import PREFIX
from archlab.evaluate.statistics import SEEDS_FOR_A_WINNER

Found = Sequence[tuple[Row, Mapping[str, Any] | None]]
"""Rows of a protocol with their results, None where a cell is not finished."""
_CLAIMS = {"higher": "above zero", "lower": "below zero"}
Outcome = Literal["holds", "fails", "undecided", "not run"]

_LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        value: the mean.
        low, high: ends of its interval; None with a single seed.
        per_seed: seed -> value.
    """

    value: float
    low: float | None
    high: float | None
    per_seed: dict[int, float]

    def to_dict(self, unit: str) -> dict[str, Any]:
        """As `compare.formatting` shows scores and differences."""
        return {"value": self.value, "difference": self.value, "low": self.low, "high": self.high, "unit": unit}


@dataclass(frozen=True)
class Verdict:
    """What became of one prediction at one place.

    Attributes:
        what: was predicted, in words.
        estimate: of the difference, or of its slope; None where a run is missing.
        outcome: whether the prediction holds.
        why: the reason, in words.
        metric: in which the arms differ.
    """

    what: str
    estimate: Estimate | None
    outcome: Outcome
    why: str
    metric: str


def over_seeds(per_seed: Mapping[int, float]) -> Estimate:
    """Mean of the values of several seeds with Student's interval."""
    values = np.array(list(per_seed.values()), dtype=np.float64)
    mean = float(values.mean())
    if len(values) < 2:
        return Estimate(mean, None, None, dict(per_seed))
    from scipy.stats import t  # slow to import, and only reports need it

    half = float(t.ppf((1 + _LEVEL) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return Estimate(mean, mean - half, mean + half, dict(per_seed))


def value_of(results: Mapping[str, Any] | None, metric: str, where: str) -> float | None:
    """A test score under the condition `where`, or a monitor; None where a cell is not finished or has none."""
    if metric.startswith(PREFIX):
        watched = (results or {}).get("monitor") or {"points": []}
        last = watched["points"][-1] if watched["points"] else {}
        value = last.get(metric.removeprefix(PREFIX))
        return None if value is None else float(value)
    score = ((results or {}).get("test") or {}).get(where, {}).get(metric)
    return None if score is None else float(score["value"])


def scores_of(found: Found, arm: str, levels: Levels, metric: str, where: str = "") -> dict[int, float]:
    """Seed -> score, of the seeds that have one; `where` names another condition than the row's own."""
    values = {
        row.seed: value_of(results, metric, where or row.condition.name)
        for row, results in found
        if row.arm == arm and place(row.levels) == place(levels)
    }
    return {seed: value for seed, value in values.items() if value is not None}


def of_runs(protocol: Protocol, found: Found) -> Found:
    """A row for every run, at the levels of `protocol.trained()`, whatever it was asked on."""
    trained, runs = protocol.trained(), dict[tuple[str, str, int], tuple[Row, Mapping[str, Any] | None]]()
    for row, results in found:
        if row.arm in trained.arms and not row.cell.conditions:
            levels = {name: level for name, level in row.levels.items() if name in trained.factors}
            plain = replace(row, levels=levels, condition=Condition(protocol.split))
            runs.setdefault((row.arm, place(levels), row.seed), (plain, results))
    return list(runs.values())


def difference(
    found: Found, protocol: Protocol, arm: str, over: str, levels: Levels, metric: str = ""
) -> Estimate | None:
    """The first arm minus the second in a metric, by default the primary, seed by seed; None where no seed has both."""
    paired = _minus(*(scores_of(found, name, levels, metric or protocol.primary) for name in (arm, over)))
    return over_seeds(paired) if paired else None


def predicted(found: Found, protocol: Protocol, one: Expectation, levels: Levels) -> Estimate | None:
    """What an expectation is about at some levels; None where no seed has all of it."""

    def at(levels: Levels) -> dict[int, float]:
        ours, *theirs = (
            scores_of(found, name, levels, one.metric or protocol.primary) for name in filter(None, (one.arm, one.over))
        )
        return _minus(ours, *theirs)

    values = _minus(at(levels), *([at(levels | one.against)] if one.against else []))
    return over_seeds(values) if values else None


def slope(found: Found, protocol: Protocol, one: Expectation, levels: Levels) -> Estimate | None:
    """Growth of what is predicted per doubling of the factor `one.along`, by least squares in every seed.

    None where no seed has it at all levels.
    """
    steps = protocol.factors[one.along].values
    at = [predicted(found, protocol, one, levels | {one.along: step}) for step in steps]
    if any(estimate is None for estimate in at):
        return None
    gaps = [estimate.per_seed for estimate in at if estimate is not None]
    seeds = [seed for seed in gaps[0] if all(seed in gap for gap in gaps)]
    doublings = np.log2(np.array(steps, dtype=np.float64))
    per_seed = {seed: float(np.polyfit(doublings, [gap[seed] for gap in gaps], 1)[0]) for seed in seeds}
    return over_seeds(per_seed) if per_seed else None


def judge(found: Found, protocol: Protocol) -> list[Verdict]:
    """Every expectation at every place where it is stated."""
    verdicts = []
    for one in protocol.expect:
        for levels in _places(protocol, one):
            estimate = (slope if one.claim == "rising" else predicted)(found, protocol, one, levels)
            what = _in_words(one, levels)
            verdicts.append(Verdict(what, estimate, *_outcome(one, estimate), one.metric or protocol.primary))
    return verdicts


def conclude(verdicts: Sequence[Verdict]) -> str:
    """What the predictions say together, in words."""
    outcomes = [verdict.outcome for verdict in verdicts]
    if not outcomes:
        return "exploratory: the protocol predicts nothing"
    if "fails" in outcomes:
        return f"contradicted: {outcomes.count('fails')} of {len(outcomes)} predictions fail"
    if all(outcome == "holds" for outcome in outcomes):
        return "supported: all predictions hold"
    if "not run" in outcomes:
        return f"open: {outcomes.count('not run')} of {len(outcomes)} predictions wait for runs"
    return f"undecided: {outcomes.count('undecided')} of {len(outcomes)} predictions are undecided"


def _minus(first: Mapping[int, float], *others: Mapping[int, float]) -> dict[int, float]:
    """Seed by seed, of the seeds that all have."""
    return {
        seed: value - sum(other[seed] for other in others)
        for seed, value in first.items()
        if all(seed in other for other in others)
    }


def _in_words(one: Expectation, levels: Levels) -> str:
    what = f"{one.arm} minus {one.over}" if one.over else one.arm
    what += f", less the same at {_levels(one.against)}," if one.against else ""
    if one.claim == "rising":
        what += f" rises with {one.along}, per doubling"
    else:
        what += f" is {_CLAIMS.get(one.claim, f'within {one.margin:g} of zero')}"
    what += f" in {metric_label(one.metric)}" if one.metric else ""
    return what + (f" at {_levels(levels)}" if levels else "")


def _levels(levels: Levels) -> str:
    return ", ".join(f"{name}={level}" for name, level in levels.items())


def _places(protocol: Protocol, one: Expectation) -> list[Levels]:
    """The levels at which an expectation is stated, without the factor that it runs along and where it is zero."""
    places: dict[str, Levels] = {}
    for levels in protocol.combinations():
        itself = bool(one.against) and levels == levels | one.against
        if not itself and all(levels[name] == level for name, level in one.at.items()):
            rest = {name: level for name, level in levels.items() if name != one.along}
            places.setdefault(place(rest), rest)
    return list(places.values())


def _outcome(one: Expectation, estimate: Estimate | None) -> tuple[Outcome, str]:
    if estimate is None:
        return "not run", "a run is missing or diverged"
    seeds = len(estimate.per_seed)
    if seeds < SEEDS_FOR_A_WINNER or estimate.low is None or estimate.high is None:
        return "undecided", f"{seeds} seed{'s' * (seeds != 1)}; {SEEDS_FOR_A_WINNER} can decide"
    low, high = estimate.low, estimate.high
    if one.claim == "within":
        if -one.margin <= low and high <= one.margin:
            return "holds", "the interval lies within the margin"
        if low > one.margin or high < -one.margin:
            return "fails", "the interval lies outside the margin"
        return "undecided", "the interval crosses the margin"
    if low <= 0 <= high:
        return "undecided", "the interval includes zero"
    values = estimate.per_seed.values()
    if not (all(value > 0 for value in values) or all(value < 0 for value in values)):
        return "undecided", "seeds disagree in sign"
    holds = (low > 0) == (one.claim != "lower")
    return ("holds" if holds else "fails"), "the interval excludes zero and all seeds agree in sign"
