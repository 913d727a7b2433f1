"""A protocol: what is asked, what is run and what will decide, written down before the run.

question, hypothesis, decision     in words
arms, factors, seeds, base         what is run: every arm at every combination of levels, once per seed, and what it is
                                   asked on
tuning                             learning rates that every arm tries, equally
primary, also, split, expect       what decides, so that the verdict is computed and not chosen afterwards
"""

from __future__ import annotations

import copy
import difflib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from archlab.compare.grid import conditions
from archlab.compare.grid.conditions import CORRUPTION, SEVERITY, SPLIT, Condition
from archlab.config import PretrainConfig, RunConfig, Section, build, flatten, read_yaml, to_dict
from archlab.data.corruptions import CORRUPTIONS, SEVEREST
from archlab.errors import UserError
from archlab.rules import NAMED, POSITIVE, Count, Named, NonNegative, at_least, each

BUDGET = "budget"
"""Key of the factor whose levels are the names of budgets; see `compare.budgets`."""

Levels = dict[str, Any]
"""Factor -> its level."""
Config = RunConfig | PretrainConfig
"""Of a run."""
_CONFIGS: dict[str, type[RunConfig] | type[PretrainConfig]] = {"arm": RunConfig, "pretrain": PretrainConfig}


@dataclass(frozen=True, kw_only=True)
class Factor(Section):
    """What is varied for all arms alike."""

    key: Named = ""
    """Dotted key of the run's configuration, or "budget"; or what turns the test alone: "split", whose levels are test
    splits, and "corruption" with "severity", of the test images (`data.corruptions`; severity 0 is as they were)."""
    values: list[Any] = field(default_factory=list)
    """Its levels, in the order of the plots."""


@dataclass(frozen=True, kw_only=True)
class Expectation(Section):
    """A difference of two arms that the hypothesis predicts."""

    arm: str = ""
    over: str = ""
    """The arm that is subtracted; empty, with `against` or `along`: none."""
    metric: str = ""
    """Of the protocol's split; or "curve/NAME", the mean of that metric over the learning curve on validation, see
    `summary.mean_over_curve`; or "monitor/NAME", a collapse monitor at the last checkpoint; "monitor/alarm" is 1 where
    an alarm rings. Empty: the primary metric."""
    claim: Literal["higher", "lower", "within", "rising"] = "higher"
    """Of the difference: above zero, below zero, rising with the levels of `along`; or within `margin` of zero, which
    the 90 % interval shows by lying inside it (two one-sided tests at 5 % each: the usual test of equivalence)."""
    at: dict[str, Any] = field(default_factory=dict)
    """Levels at which it is predicted; empty: at all of them."""
    against: dict[str, Any] = field(default_factory=dict)
    """Levels at which the same difference is subtracted from it; empty: none is."""
    along: str = ""
    """Factor of "rising", whose levels are positive numbers: the slope is per doubling."""
    margin: NonNegative = 0.0
    """Of "within", in the unit of the metric."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.claim == "rising") != bool(self.along):
            raise UserError(f"along={self.along!r}: names the factor of claim='rising', and of no other")
        if not (self.over or self.against or self.along):
            raise UserError(
                f"over={self.over!r}: names the arm that is subtracted, unless against says from where, or along "
                f"how it is to rise"
            )
        if (self.claim == "within") != (self.margin > 0):
            raise UserError(f"margin={self.margin!r}: is positive for claim='within', and 0 for all others")


@dataclass(frozen=True, kw_only=True)
class Tuning(Section):
    """Short runs of the first seed, one per learning rate and arm; the best on validation is taken."""

    learning_rates: Annotated[list[float], each(POSITIVE)] = field(default_factory=list)
    """Empty: every run has the learning rate of its configuration."""
    steps: Count = 500
    items: Count = 1000
    """Validation questions, and captions at most, by which a trial of an arm is scored, once, at its end."""
    metrics: list[str] = field(default_factory=list)
    """Of validation, all shares, whose mean is to be highest: several have less noise. Empty: the primary alone."""
    at: dict[str, Any] = field(default_factory=dict)
    """Level of a factor at which it is tuned for all its levels; other factors are tuned at each of theirs."""


@dataclass(frozen=True, kw_only=True)
class Protocol(Section):
    """An experiment."""

    recipe: Literal["arm", "pretrain"] = "arm"
    """What every run trains: an arm of the comparison, or a vision encoder."""
    question: Named = ""
    hypothesis: Named = ""
    decision: Named = ""
    """When the hypothesis counts as supported, and when as contradicted."""
    primary: Named = ""
    """The metric that decides."""
    also: Annotated[list[str], each(NAMED)] = field(default_factory=list)
    """Metrics that are shown beside it, and decide nothing."""
    split: Named = "test"
    base: dict[str, Any] = field(default_factory=dict)
    """Configuration of every run, where it differs from the defaults."""
    arms: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name -> its configuration, where it differs from `base`; `after: NAME` begins with the finished run of another
    arm at the same levels and seed, as `start` says. `{of: NAME, control: shuffled_image}` is no run of its own, but
    that of another arm under a blind control (`compare.trial`)."""
    factors: dict[str, Factor] = field(default_factory=dict)
    expect: list[Expectation] = field(default_factory=list)
    tuning: Tuning = field(default_factory=Tuning)
    seeds: Annotated[list[int], each(at_least(0), least=1)] = field(default_factory=lambda: [0, 1, 2])
    test_items: Count = 1600
    """Questions scored per test split, without open-vocabulary ones."""
    test_captions: Count = 400
    """Captions and retrieval pairs scored per test split, and open-vocabulary questions, at most."""
    most_steps: Count = 1500
    """Longest run, as configured: about four minutes on two cores, so that an interruption costs little and cells fill
    gaps. A budget of equal operations may give a cheaper method more steps than this, of as many operations together as
    the dearest has; see `grid.encoders`."""

    def combinations(self) -> list[Levels]:
        """Every combination of levels; one, of nothing, where there are no factors."""
        values = [factor.values for factor in self.factors.values()]
        return [dict(zip(self.factors, levels, strict=True)) for levels in itertools.product(*values)]

    def trained(self) -> Protocol:
        """What is run, without what runs are asked on and what was predicted of it."""
        arms = {arm: own for arm, own in self.arms.items() if self.run_of(arm) == arm}
        factors = {name: factor for name, factor in self.factors.items() if factor.key not in conditions.KEYS}
        return replace(self, arms=arms, factors=factors, expect=[])

    def run_of(self, arm: str) -> str:
        """The arm whose runs are asked: a control has none of its own."""
        return str(self.arms[arm].get("of", arm))

    def condition(self, arm: str, levels: Levels) -> Condition:
        """What an arm is asked on."""
        at = {self.factors[name].key: level for name, level in levels.items()}
        split, severity = at.get(SPLIT, self.split), at.get(SEVERITY, 0)
        return Condition(split, at[CORRUPTION] if severity else "", severity, self.arms[arm].get("control", ""))

    def config(self, arm: str, levels: Levels, seed: int) -> Config:
        """The run of an arm; budget, tuned learning rate and the run it begins with are not yet in it."""
        raw = _merge(self.base, {key: value for key, value in self.arms[arm].items() if key != "after"})
        if "after" in self.arms[arm]:
            raw = _merge(raw, {"start": {"run": self.arms[arm]["after"]}})
        for name, level in levels.items():
            if self.factors[name].key not in (BUDGET, *conditions.KEYS):
                raw = _merge(raw, _nested(self.factors[name].key, level))
        return replace(build(_CONFIGS[self.recipe], raw), seed=seed)


def load_protocol(path: Path) -> Protocol:
    """Read and check a protocol.

    Raises:
        UserError: it cannot be read, leaves out what decides, or names what it does not define.
    """
    raw = read_yaml(path)
    try:
        factors = _mapping(raw, "factors")
        raw["factors"] = {name: build(Factor, _mapping(factors, name)) for name in factors}
        expected = raw.get("expect", [])
        if not isinstance(expected, list) or not all(isinstance(one, dict) for one in expected):
            raise UserError("expect: must be a list of expectations, each with 'arm', 'over' and 'claim'")
        raw["expect"] = [build(Expectation, one) for one in expected]
        protocol = build(Protocol, raw)
        _check(protocol)
    except UserError as error:
        raise UserError(f"protocol {path}: {error}") from None
    return protocol


def _check(protocol: Protocol) -> None:
    if not protocol.arms:
        raise UserError("arms: must name at least one arm")
    for one in protocol.expect:
        for name in filter(None, (one.arm, one.over)):
            _known(name, protocol.arms, "arm")
        _check_levels(protocol, one.at, "expect.at")
        _check_levels(protocol, one.against, "expect.against")
        if one.along:
            _known(one.along, protocol.factors, "factor")
            levels = protocol.factors[one.along].values
            if not all(isinstance(level, int | float) and level > 0 for level in levels) or len(levels) < 2:
                raise UserError(f"along={one.along!r}: its levels {levels} must be two or more positive numbers")
    _check_levels(protocol, protocol.tuning.at, "tuning.at")
    _check_conditions(protocol)
    for arm, own in protocol.arms.items():
        if "after" in own and protocol.recipe != "arm":
            raise UserError(f"arm {arm!r}: 'after' is for recipe='arm'; an encoder begins at random")
        if "after" in own:
            _known(own["after"], protocol.arms, "arm")
            if protocol.arms[own["after"]].keys() & {"after", "of"}:
                raise UserError(
                    f"arm {arm!r}: begins after {own['after']!r}, which itself begins after another or has no run"
                )
    known = flatten(to_dict(_CONFIGS[protocol.recipe]()))
    for name, factor in protocol.factors.items():
        if factor.key not in (BUDGET, *conditions.KEYS):
            _known(factor.key, known, f"factor {name!r}: key")
        if len({repr(level) for level in factor.values}) != len(factor.values) or not factor.values:
            raise UserError(f"factor {name!r}: values={factor.values} must be one or more different values")
    for arm in protocol.trained().arms:
        for at in protocol.trained().combinations():
            steps = protocol.config(arm, at, protocol.seeds[0]).optimizer.steps
            if steps > protocol.most_steps:
                raise UserError(
                    f"arm {arm!r}: optimizer.steps={steps} is more than most_steps={protocol.most_steps}; train for "
                    f"fewer, or raise most_steps"
                )


def _check_conditions(protocol: Protocol) -> None:
    """Whether what runs are asked on is there."""
    for arm, own in protocol.arms.items():
        if not own.keys() & {"of", "control"}:
            continue
        if own.keys() != {"of", "control"}:
            raise UserError(f"arm {arm!r}: has {', '.join(own)}; a control has 'of' and 'control', and nothing else")
        conditions.check_control(own["control"])
        _known(own["of"], protocol.trained().arms, "arm")
    by_key = {factor.key: factor.values for factor in protocol.factors.values() if factor.key in conditions.KEYS}
    asks_more = bool(by_key) or len(protocol.trained().arms) < len(protocol.arms)
    if asks_more and protocol.recipe != "arm":
        raise UserError("factors: splits, corruptions and controls are for recipe='arm'; an encoder is probed")
    if (CORRUPTION in by_key) != (SEVERITY in by_key):
        raise UserError(f"factors: one of key {CORRUPTION!r} needs one of key {SEVERITY!r}, and the other way round")
    for kind in by_key.get(CORRUPTION, []):
        _known(kind, dict.fromkeys(CORRUPTIONS), "corruption")
    severities = by_key.get(SEVERITY, [0])
    if 0 not in severities or not all(type(one) is int and 0 <= one <= SEVEREST for one in severities):
        raise UserError(f"severity: {severities} must be whole numbers up to {SEVEREST} with 0, the images as they are")


def _check_levels(protocol: Protocol, levels: Mapping[str, Any], where: str) -> None:
    for name, level in levels.items():
        _known(name, protocol.factors, "factor")
        if level not in protocol.factors[name].values:
            raise UserError(f"{where}: {name}={level!r} is no level of it; it has {protocol.factors[name].values}")


def _known(name: object, names: Mapping[str, Any], what: str) -> None:
    if name not in names:
        near = difflib.get_close_matches(str(name), [*names, "none"], n=1, cutoff=0.0)[0]
        raise UserError(f"{what} {name!r}: is not defined; did you mean {near!r}?")


def _mapping(raw: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = raw.get(key, {})
    if not isinstance(value, dict):
        raise UserError(f"{key}: {value!r} must be a section of keys")
    return value


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested sections of `base` with those of `changes` laid over them."""
    merged = copy.deepcopy(dict(base))
    for key, value in changes.items():
        inner = merged.get(key)
        merged[key] = _merge(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)
