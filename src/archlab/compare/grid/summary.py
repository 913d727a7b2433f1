"""From cells to statements: estimates over seeds, differences of arms, and whether what was predicted holds.

A statement is a sum of mean scores times weights: an arm minus another, less the same at other levels, a slope over
levels. Seeds are paired: runs of one seed began with one backbone and read the same batches. Intervals are those of
`evaluate.statistics`, a bootstrap over seeds and test images, paired where terms are scored on the same images. What
has no test items (monitors, learning curves) has Student's interval over seeds, which is wide with three.

A difference is decided with three seeds or more, where the 95 % interval excludes zero and all seeds agree in sign, and
the winner is clearly above its own blind controls; "within" a margin of zero, by the 90 % interval and all seeds.
Student's interval of three seeds is much wider (a test shows it), and would leave most differences open; the price
is that a bootstrap of three is too narrow where seeds vary more than images do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from archlab.compare.grid.cells import Row, place
from archlab.compare.grid.conditions import MAJORITY, Condition
from archlab.compare.grid.items import Values
from archlab.compare.grid.protocol import Expectation, Levels, Protocol
from archlab.compare.scores import clearly_above, control_label, metric_label
from archlab.compare.trial import BLIND
from archlab.errors import UserError
from archlab.evaluate.measure import CURVE, unit_of
from archlab.evaluate.monitor import PREFIX
from archlab.evaluate.statistics import SEEDS_FOR_A_WINNER, Term, combine, percentiles

Found = Sequence[tuple[Row, Mapping[str, Any] | None]]
"""Rows of a protocol with their results, None where a cell is not finished."""
Part = tuple[float, str, Levels]
"""Weight, arm and levels of a mean score in a statement."""
Outcome = Literal["holds", "fails", "undecided", "not run"]

_COUNTED = {1: "one seed: decides nothing", 2: "two seeds: decide nothing"}
_CLAIMS = {"higher": "above zero", "lower": "below zero"}
_LEVEL, _EQUIVALENCE = 0.95, 0.90
_BOOTSTRAP = {"samples": 2000, "seed": 0}
_TRAINED_BLIND = "trained_blind"
CONTROLS = (*BLIND, MAJORITY, _TRAINED_BLIND)
"""Names of all blind controls."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        value: the mean.
        low, high: ends of its interval; None with a single seed, unless there are test items to resample.
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


def over_seeds(per_seed: Mapping[int, float], level: float = _LEVEL) -> Estimate:
    """Mean of the values of several seeds with Student's interval."""
    values = np.array(list(per_seed.values()), dtype=np.float64)
    mean = float(values.mean())
    if len(values) < 2:
        return Estimate(mean, None, None, dict(per_seed))
    from scipy.stats import t  # slow to import, and only reports need it

    half = float(t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return Estimate(mean, mean - half, mean + half, dict(per_seed))


def value_of(results: Mapping[str, Any] | None, metric: str, where: str) -> float | None:
    """A test score under the condition `where`, a mean over the learning curve, or a monitor.

    None where a cell is not finished or has none.
    """
    if metric.startswith(PREFIX):
        watched = (results or {}).get("monitor") or {"points": []}
        last = watched["points"][-1] if watched["points"] else {}
        value = last.get(metric.removeprefix(PREFIX))
        return None if value is None else float(value)
    if metric.startswith(CURVE):
        return mean_over_curve((results or {}).get("curve") or [], metric.removeprefix(CURVE))
    score = ((results or {}).get("test") or {}).get(where, {}).get(metric)
    return None if score is None else float(score["value"])


def mean_over_curve(curve: Sequence[Mapping[str, Any]], metric: str) -> float | None:
    """Who learns faster: the area under a validation curve over the logarithm of samples, as a mean score.

    By trapezoids between the checkpoints, over the range from the first, which is very early, to the last: a run that
    learns sooner has more of it, whatever it ends at. Where a budget gives arms different numbers of steps, each is
    taken over its own. None where there is no such metric, or a single checkpoint.
    """
    points = [(point["samples"], point["scores"][metric]) for point in curve if metric in point["scores"]]
    points = [(math.log(samples), score) for samples, score in points if samples]  # the untrained have no logarithm
    if len(points) < 2:
        return None
    x, y = np.transpose(points)
    return float(np.trapezoid(y, x) / (x[-1] - x[0]))


def estimate(
    found: Found, protocol: Protocol, parts: Sequence[Part], metric: str, where: str = "", level: float = _LEVEL
) -> Estimate | None:
    """A sum of mean scores, over the seeds that have all of them; None where there is no such seed.

    Args:
        metric: empty for the primary one.
        where: another condition than the rows' own.
        level: coverage of the interval.
    """
    metric = metric or protocol.primary
    scored = [_scored(found, arm, levels, metric, where) for _, arm, levels in parts]
    seeds = [seed for seed in scored[0] if all(seed in one for one in scored)]
    if not seeds:
        return None
    weights = [weight for weight, _, _ in parts]
    terms = [
        term
        for weight, one in zip(weights, scored, strict=True)
        if (term := _term(weight, [one[seed][1] for seed in seeds]))
    ]
    if len(terms) < len(parts):
        per_seed = {seed: math.fsum(w * one[seed][0] for w, one in zip(weights, scored, strict=True)) for seed in seeds}
        return over_seeds(per_seed, level)
    combined = combine(terms, **_BOOTSTRAP)
    per_seed = dict(zip(seeds, combined.per_seed.tolist(), strict=True))
    return Estimate(float(combined.per_seed.mean()), *percentiles(combined.drawn, level), per_seed)


def score_at(
    found: Found, protocol: Protocol, arm: str, levels: Levels, metric: str = "", where: str = ""
) -> Estimate | None:
    """The score of an arm; arguments as of `estimate`."""
    return estimate(found, protocol, [(1.0, arm, levels)], metric, where)


def difference(
    found: Found, protocol: Protocol, arm: str, over: str, levels: Levels, metric: str = ""
) -> Estimate | None:
    """The first arm minus the second in a metric, by default the primary."""
    return estimate(found, protocol, [(1.0, arm, levels), (-1.0, over, levels)], metric)


def predicted(found: Found, protocol: Protocol, one: Expectation, levels: Levels) -> Estimate | None:
    """What an expectation is about at some levels."""
    level = _EQUIVALENCE if one.claim == "within" else _LEVEL
    return estimate(found, protocol, _parts(protocol, one, levels), one.metric, level=level)


def blind_controls(found: Found, protocol: Protocol, arm: str, levels: Levels, metric: str) -> dict[str, Estimate]:
    """What an arm reaches without the image, or questions without the query, by the names of `CONTROLS`.

    Read from the protocol's arms that are controls of this one, or from its own cell. "trained_blind" is the arm that
    differs from this one in `blind: true` alone.
    """
    condition, own = protocol.condition(arm, levels), protocol.arms[arm]
    if condition.control or own.get("blind") or metric.startswith((PREFIX, CURVE)):
        return {}
    named = {
        _TRAINED_BLIND if "of" not in other else other["control"]: name
        for name, other in protocol.arms.items()
        if other in ({**own, "blind": True}, {"of": arm, "control": other.get("control")})
    }
    controls: dict[str, Estimate | None] = {}
    for name in CONTROLS:
        if name == "no_query" and not metric.startswith("vqa"):
            continue  # captions all have one query
        if name in named:
            controls[name] = score_at(found, protocol, named[name], levels, metric)
        elif name != _TRAINED_BLIND:
            where = replace(condition, control=name).name
            controls[name] = score_at(found, protocol, arm, levels, metric, where)
    return {name: one for name, one in controls.items() if one}


def of_runs(protocol: Protocol, found: Found) -> Found:
    """A row for every run, at the levels of `protocol.trained()`, whatever it was asked on."""
    trained, runs = protocol.trained(), dict[tuple[str, str, int], tuple[Row, Mapping[str, Any] | None]]()
    for row, results in found:
        if row.arm in trained.arms and not row.cell.conditions:
            levels = {name: level for name, level in row.levels.items() if name in trained.factors}
            plain = replace(row, levels=levels, condition=Condition(protocol.split))
            runs.setdefault((row.arm, place(levels), row.seed), (plain, results))
    return list(runs.values())


def judge(found: Found, protocol: Protocol) -> list[Verdict]:
    """Every expectation at every place where it is stated."""
    verdicts = []
    for one in protocol.expect:
        for levels in _places(protocol, one):
            gap = predicted(found, protocol, one, levels)
            outcome, why = _outcome(one, gap)
            if gap and outcome in ("holds", "fails"):
                blind = _no_better_than_blind(found, protocol, one, levels, gap)
                outcome, why = ("undecided", blind) if blind else (outcome, why)
            verdicts.append(Verdict(_in_words(one, levels), gap, outcome, why, one.metric or protocol.primary))
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


def on_validation(results: Mapping[str, Any], protocol: Protocol) -> float:
    """What tuning maximises, at the end of a trial; one that diverged is worse than all others.

    Raises:
        UserError: validation does not have one of the metrics.
    """
    if "diverged" in results:
        return float("-inf")
    scores, metrics = results["curve"][-1]["scores"], protocol.tuning.metrics or [protocol.primary]
    for metric in metrics:
        if metric not in scores:
            raise UserError(
                f"tuning.metrics={metric!r}: is not measured on validation; choose among {', '.join(sorted(scores))}"
            )
    return math.fsum(scores[metric] for metric in metrics) / len(metrics)


def best_rates(trials: Found, protocol: Protocol) -> dict[tuple[str, str], float]:
    """(arm, levels) -> the learning rate that is best on validation, the lower one of equals; empty until all are run.

    Raises:
        UserError: validation does not have one of the metrics.
    """
    scores: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row, results in trials:
        if results is None:
            return {}
        levels, rate = of_trial(row.levels)
        scores.setdefault((row.arm, place(levels)), []).append((on_validation(results, protocol), -rate))
    return {key: -max(tried)[1] for key, tried in scores.items()}


def of_trial(levels: Levels) -> tuple[Levels, float]:
    """The levels of a trial without its learning rate, and that."""
    rest = dict(levels)
    return rest, rest.pop("learning_rate")


def _parts(protocol: Protocol, one: Expectation, levels: Levels) -> list[Part]:
    """What is added up for an expectation; of "rising" the slope per doubling, by least squares."""
    if not one.along:
        return _gap(one, levels)
    steps = protocol.factors[one.along].values
    doublings = np.log2(np.array(steps, dtype=np.float64))
    doublings -= doublings.mean()
    return [
        (weight * float(x / (doublings @ doublings)), arm, at)
        for step, x in zip(steps, doublings, strict=True)
        for weight, arm, at in _gap(one, levels | {one.along: step})
    ]


def _gap(one: Expectation, levels: Levels) -> list[Part]:
    own = [(1.0, one.arm, levels), *([(-1.0, one.over, levels)] if one.over else [])]
    return own + [(-weight, arm, at | one.against) for weight, arm, at in own if one.against]


def _scored(found: Found, arm: str, levels: Levels, metric: str, where: str) -> dict[int, tuple[float, Values | None]]:
    """Seed -> score and its items, of the seeds that have one."""
    at, scored = place(levels), {}
    for row, results in found:
        if row.arm == arm and row.place == at:
            name = where or row.condition.name
            value = value_of(results, metric, name)
            if value is not None and results is not None:
                scored[row.seed] = value, (results["items"].get(name, metric) if "items" in results else None)
    return scored


def _term(weight: float, items: Sequence[Values | None]) -> Term | None:
    """Of the items of every seed, None where one has none."""
    kept = [one for one in items if one]
    if len(kept) < len(items):
        return None
    _, clusters, images = kept[0]
    if any(one[2] != images or not np.array_equal(one[1], clusters) for one in kept):
        raise UserError(f"cells of one arm: were scored on other images ({images} and others); remove the older ones")
    return Term(weight, np.stack([values for values, _, _ in kept]).astype(np.float64), clusters, images)


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


def _outcome(one: Expectation, found: Estimate | None) -> tuple[Outcome, str]:
    if found is None:
        return "not run", "a run is missing or diverged"
    values, low, high = found.per_seed.values(), found.low, found.high
    if len(values) < SEEDS_FOR_A_WINNER or low is None or high is None:
        images = "; the interval is over images alone" if len(values) == 1 and low is not None else ""
        return "undecided", _COUNTED[len(values)] + images
    if one.claim == "within":
        if -one.margin <= low and high <= one.margin:
            if max(map(abs, values)) > one.margin:
                return "undecided", "a seed lies outside the margin"
            return "holds", "the 90 % interval and all seeds lie within the margin"
        if low > one.margin or high < -one.margin:
            return "fails", "the 90 % interval lies outside the margin"
        return "undecided", "the 90 % interval crosses the margin"
    if low == high == 0 and not any(values):
        return "fails", "there is no difference at all, under any seed"
    if low <= 0 <= high:
        return "undecided", "the interval includes zero"
    if not (all(value > 0 for value in values) or all(value < 0 for value in values)):
        return "undecided", "seeds disagree in sign"
    holds = (low > 0) == (one.claim != "lower")
    return ("holds" if holds else "fails"), "the interval excludes zero and all seeds agree in sign"


def _no_better_than_blind(found: Found, protocol: Protocol, one: Expectation, levels: Levels, gap: Estimate) -> str:
    """Why the win of an arm over another is taken back; nothing where it stays, or where no arm has won."""
    if one.claim not in _CLAIMS or not one.over or one.against or not gap.value:
        return ""
    winner, metric = one.arm if gap.value > 0 else one.over, one.metric or protocol.primary
    unit, own = unit_of(metric), score_at(found, protocol, winner, levels, metric)
    for name, blind in blind_controls(found, protocol, winner, levels, metric).items():
        if own and not clearly_above(own.to_dict(unit), blind.to_dict(unit)):
            return f"{winner} is not clearly above its blind control, {control_label(name)}"
    return ""
