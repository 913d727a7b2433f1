"""From cells to statements: curves over decodes per event, shares of the oracle's gain, and what became of predictions.

Scores are means over annotations or frames, and over seeds; intervals resample streams and seeds. Policies are compared
at one decode per event, the oracle's number: tuned ones, which hit it only nearly, by interpolation between the numbers
that they did reach. Every resample goes the whole way, so that shares and ratios have intervals too.

Shape legend: S seeds, C streams, R replicates, P points of a curve.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from archlab.compare.grid.summary import Estimate, Outcome, Verdict, conclude
from archlab.compare.selective.policies import LABELS, peers
from archlab.compare.selective.protocol import BASE, Expectation, SelectiveProtocol
from archlab.compare.selective.scoring import CIDER, READINGS
from archlab.config import to_dict
from archlab.evaluate.measure import unit_of
from archlab.evaluate.statistics import SEEDS_FOR_A_WINNER, replicates

Cells = Sequence[Mapping[str, Any]]
_LEVEL = 0.95


@dataclass(frozen=True)
class Sampled:
    """A number with its resamples.

    Attributes:
        value: over all seeds. per_seed: seed by seed, (S,). drawn: replicates, (R,).
    """

    value: float
    per_seed: np.ndarray
    drawn: np.ndarray

    def map(self, function: Callable[..., Any], *others: Sampled) -> Sampled:
        """A function of this and other numbers, resample by resample."""
        parts = [self, *others]
        return Sampled(
            float(function(*(one.value for one in parts))),
            np.array([function(*values) for values in zip(*(one.per_seed for one in parts), strict=True)]),
            np.array([function(*values) for values in zip(*(one.drawn for one in parts), strict=True)]),
        )

    def estimate(self, seeds: Sequence[int]) -> Estimate:
        """With its percentile interval; ends that are not finite are None."""
        tail = (1 - _LEVEL) / 2
        low, high = (float(end) for end in np.quantile(self.drawn, [tail, 1 - tail], method="nearest"))
        return Estimate(self.value, low, high, dict(zip(seeds, self.per_seed.tolist(), strict=True)))


class Condition:
    """All seeds on one kind of streams.

    Args:
        cells: one per seed, of the same streams.
        samples: R.
    """

    def __init__(self, cells: Cells, samples: int) -> None:
        self.cells = sorted(cells, key=lambda cell: cell["seed"])
        self.seeds = [cell["seed"] for cell in self.cells]
        self.samples = samples
        self.facts: str = self.cells[0]["facts"]
        self._curves: dict[tuple[str, str, str], list[tuple[Sampled, Sampled]]] = {}
        self.sizes = {
            "paired": np.array(self.cells[0]["annotations"], dtype=np.float64),
            "dense": np.array(self.cells[0]["frames"], dtype=np.float64),
        }

    @property
    def interval(self) -> float:
        """Mean number of frames between events, as drawn."""
        return float(self.sizes["dense"].sum() / self.sizes["paired"].sum())

    def budgets(self, policy: str) -> list[str]:
        """Where a policy was measured."""
        return list(self.cells[0]["policies"][policy])

    def rate(self, policy: str, budget: str) -> Sampled:
        """Decodes per event."""
        return self._mean([cell["policies"][policy][budget]["decodes"] for cell in self.cells], "paired")

    def waited(self, policy: str, budget: str) -> float:
        """Mean number of frames between the first that a text speaks of and the first that shows it."""
        places = [cell["policies"][policy][budget] for cell in self.cells]
        return float(sum(sum(one["waited"]) for one in places) / sum(sum(one["decodes"]) for one in places))

    def boundaries(self, policy: str, budget: str) -> tuple[Sampled, Sampled, Sampled]:
        """Precision, recall and F1 of a policy's cuts: one within `TOLERANCE` frames of an event has found it."""
        places = [cell["policies"][policy][budget] for cell in self.cells]
        found, cuts = (self._mean([one[name] for one in places], "paired") for name in ("found", "cuts"))
        events = self._mean([self.sizes["paired"] - 1] * len(places), "paired")
        return (
            found.map(_of, cuts),
            found.map(_of, events),
            found.map(lambda hits, tried, there: _of(2 * hits, tried + there), cuts, events),
        )

    def delay(self, policy: str, budget: str) -> float | None:
        """Mean number of frames from an event that was found until its text shows; None if none was."""
        places = [cell["policies"][policy][budget] for cell in self.cells]
        found = sum(sum(one["found"]) for one in places)
        return float(sum(sum(one["delays"]) for one in places) / found) if found else None

    def score(self, policy: str, budget: str, reading: str, metric: str) -> Sampled:
        """A score at a number of decodes."""
        return self._mean([cell["policies"][policy][budget][reading][metric] for cell in self.cells], reading)

    def control(self, name: str, reading: str, metric: str) -> Sampled:
        """The score of a control."""
        return self._mean([cell["controls"][name][reading][metric] for cell in self.cells], reading)

    def curve(self, policy: str, reading: str, metric: str) -> list[tuple[Sampled, Sampled]]:
        """(decodes per event, score) for every number of decodes."""
        key = policy, reading, metric
        if key not in self._curves:
            self._curves[key] = [
                (self.rate(policy, budget), self.score(policy, budget, reading, metric))
                for budget in self.budgets(policy)
            ]
        return self._curves[key]

    def at_one(self, policy: str, reading: str, metric: str) -> Sampled:
        """The score at one decode per event."""
        first, *rest = _flat(self.curve(policy, reading, metric))
        return first.map(_interpolated, *rest)

    def gain(self, policy: str, reading: str, metric: str, over: str) -> Sampled:
        """What the oracle that speaks of as many frames as a policy gains over another at its number of decodes."""
        oracle = self.at_one(peers(policy, reading).oracle, reading, metric)
        return oracle.map(np.subtract, self.at_one(over, reading, metric))

    def share(self, policy: str, reading: str, metric: str, over: str) -> Sampled:
        """How much of that gain the policy reaches."""
        own, none = self.at_one(policy, reading, metric), self.at_one(over, reading, metric)
        return own.map(_share, none, self.at_one(peers(policy, reading).oracle, reading, metric))

    def fewer(self, policy: str, reading: str, metric: str, over: str) -> Sampled:
        """How many times as often `over` must decode to score what the policy scores at one per event.

        Infinite where it does not get there at any measured number.
        """
        points = self.curve(over, reading, metric)
        return self.at_one(policy, reading, metric).map(_first_reach, *_flat(points))

    def _mean(self, sums: Sequence[Sequence[float] | np.ndarray], reading: str) -> Sampled:
        values, sizes = np.array(sums, dtype=np.float64), self.sizes[reading]  # (S, C), (C,)
        per_seed = values.sum(1) / sizes.sum()
        drawn = replicates(values, sizes, samples=self.samples, seed=0)
        return Sampled(float(per_seed.mean()), per_seed, drawn)


def summarise(name: str, protocol: SelectiveProtocol, cells: Cells) -> dict[str, Any]:
    """The content of `results.json`.

    Args:
        name: of the protocol.
        cells: of all runs and conditions.
    """
    conditions = {
        condition: Condition([cell for cell in cells if cell["condition"] == condition], protocol.bootstrap_samples)
        for condition in protocol.conditions()
    }
    verdicts = [judge(one, conditions[one.at]) for one in protocol.expect]
    first = cells[0]
    return {
        "protocol": {"name": name, **to_dict(protocol)},
        "seeds": next(iter(conditions.values())).seeds,
        "facts": first["facts"],
        "git": first["git"],
        "created": first["created"],
        "machine": first["machine"],
        "conclusion": conclude(verdicts),
        "verdicts": [
            {
                "what": one.what,
                "found": _shown(one.estimate, "share" if asked.claim == "share" else unit_of(first["facts"])),
                "outcome": one.outcome,
                "why": one.why,
            }
            for asked, one in zip(protocol.expect, verdicts, strict=True)
        ],
        "conditions": {name: _of_condition(one) for name, one in conditions.items()},
        "timing": {cell["seed"]: cell["timing"] for cell in cells if cell["timing"]},
    }


def judge(one: Expectation, condition: Condition) -> Verdict:
    """What became of a prediction."""
    facts, seeds = condition.facts, condition.seeds
    where = "" if one.at == BASE else f" at {one.at}"
    policy, over = LABELS[one.policy], LABELS[one.over]
    if one.claim == "share":
        what = f"{policy} reaches {100 * one.least:g} % of the oracle's gain over {over} ({one.reading}){where}"
        found = condition.share(one.policy, one.reading, facts, one.over).estimate(seeds)
        gain = condition.gain(one.policy, one.reading, facts, one.over).estimate(seeds)
    else:
        what = f"{policy} scores above {over} ({one.reading}){where}"
        ours, theirs = (condition.at_one(name, one.reading, facts) for name in (one.policy, one.over))
        found, gain = ours.map(np.subtract, theirs).estimate(seeds), None
    return Verdict(what, found, *_outcome(found, one.least if gain else 0.0, gain), facts)


def _outcome(found: Estimate, least: float, gain: Estimate | None) -> tuple[Outcome, str]:
    """Whether an estimate lies above `least`; of a share of `gain`, only where there is a gain."""
    low, high, seeds = found.low or 0.0, found.high or 0.0, len(found.per_seed)
    if seeds < SEEDS_FOR_A_WINNER:
        return "undecided", f"{seeds} seed{'s' * (seeds != 1)}; {SEEDS_FOR_A_WINNER} can decide"
    if gain is not None and not (gain.low and gain.low > 0):
        return "undecided", "the oracle's own gain is not clearly above zero"
    if low <= least <= high:
        return "undecided", "the interval includes zero" if gain is None else f"the interval includes {100 * least:g} %"
    if gain is None and len({value > 0 for value in found.per_seed.values()}) > 1:
        return "undecided", "seeds disagree in sign"
    return ("holds" if low > least else "fails"), "the whole interval lies on one side"


def _of_condition(condition: Condition) -> dict[str, Any]:
    facts, seeds = condition.facts, condition.seeds

    def each(score: Callable[[str, str], Sampled]) -> dict[str, dict[str, Any]]:
        """A score in both readings and both metrics."""
        return {
            reading: {
                metric: _shown(score(reading, metric).estimate(seeds), unit_of(metric)) for metric in (facts, CIDER)
            }
            for reading in READINGS
        }

    policies = {}
    for policy in LABELS:
        points = [
            {
                "budget": float(budget),
                "decodes": _shown(condition.rate(policy, budget).estimate(seeds), ""),
                **each(partial(condition.score, policy, budget)),
            }
            for budget in condition.budgets(policy)
        ]
        over = {reading: peers(policy, reading).baseline for reading in READINGS}
        policies[policy] = {
            "curve": points,
            "waited": round(condition.waited(policy, "1"), 2),
            "boundaries": {
                name: _shown(one.estimate(seeds), "share")
                for name, one in zip(("precision", "recall", "f1"), condition.boundaries(policy, "1"), strict=True)
            },
            "delay": condition.delay(policy, "1"),
            "at_one": each(partial(condition.at_one, policy)),
            "over": over,
            "gain": {
                one: _shown(condition.gain(policy, one, facts, over[one]).estimate(seeds), unit_of(facts))
                for one in READINGS
            },
            "share": {
                one: _shown(condition.share(policy, one, facts, over[one]).estimate(seeds), "share") for one in READINGS
            },
            "fewer": {
                one: _shown(condition.fewer(policy, one, facts, over[one]).estimate(seeds), "") for one in READINGS
            },
            # Of the one that may leave frames unseen: it needs more decodes than if it pooled, and they cost less.
            "unseen": _shown(condition.fewer(policy, "paired", facts, "uniform").estimate(seeds), ""),
        }
    return {
        "streams": condition.cells[0]["streams"],
        "frames_per_event": condition.interval,
        "annotations": int(condition.sizes["paired"].sum()),
        "policies": policies,
        "controls": {name: each(partial(condition.control, name)) for name in condition.cells[0]["controls"]},
        "tuned": {cell["seed"]: cell["tuned"] for cell in condition.cells},
    }


def _shown(estimate: Estimate | None, unit: str) -> dict[str, Any]:
    """As `compare.formatting` shows scores and differences; what is not finite is None."""
    assert estimate is not None, "every prediction has its runs"
    found = estimate.to_dict(unit) | {"per_seed": list(estimate.per_seed.values())}
    return {key: _finite(value) for key, value in found.items()}


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(one) for one in value]
    if isinstance(value, float):
        return round(value, 5) if np.isfinite(value) else None
    return value


def _flat(points: Sequence[tuple[Sampled, Sampled]]) -> list[Sampled]:
    """All decode rates, then all scores."""
    return [rate for rate, _ in points] + [score for _, score in points]


def _interpolated(*numbers: float) -> float:
    """The score at one decode per event of a curve given as its rates, then its scores."""
    rates, scores = np.array(numbers).reshape(2, -1)
    order = np.argsort(rates, kind="stable")
    return float(np.interp(1.0, rates[order], scores[order]))


def _first_reach(target: float, *numbers: float) -> float:
    """The least rate at which a curve, given as its rates and then its scores, reaches a score."""
    rates, scores = np.array(numbers).reshape(2, -1)
    if target <= scores[0]:
        return float(rates[0])
    for row in range(1, len(rates)):
        if scores[row] >= target:
            part = (target - scores[row - 1]) / (scores[row] - scores[row - 1])
            return float(rates[row - 1] + part * (rates[row] - rates[row - 1]))
    return float("inf")


def _of(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def _share(own: float, none: float, oracle: float) -> float:
    return (own - none) / (oracle - none) if oracle != none else float("nan")
