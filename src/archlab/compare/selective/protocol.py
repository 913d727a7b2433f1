"""What a measurement of selective decoding asks, sweeps and decides, written down before it is run."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from archlab.compare.selective.policies import LABELS, POOLED
from archlab.compare.selective.trigger import TriggerConfig
from archlab.config import Section, build, read_yaml, to_dict
from archlab.data.streams.stream import StreamConfig
from archlab.errors import UserError
from archlab.rules import POSITIVE, Count, Named, Positive, at_least, each

BASE = "base"
"""Name of the streams that no factor changes."""

_SWEPT = tuple(one.name for one in fields(StreamConfig))


@dataclass(frozen=True, kw_only=True)
class Expectation(Section):
    """What the hypothesis predicts at one decode per event, the oracle's number."""

    policy: Named = ""
    over: Named = ""
    """The policy that is subtracted; it speaks of means of frames if `policy` does, and of single ones if not."""
    claim: Literal["higher", "share"] = "higher"
    """"higher": the policy scores above the other; "share": of what the oracle gains over the other, the policy reaches
    at least `least`."""
    least: Positive = 0.9
    reading: Literal["paired", "dense"] = "paired"
    at: Named = BASE
    """Streams for which it is predicted, as `base` or `interval=6`."""


@dataclass(frozen=True, kw_only=True)
class GridRuns(Section):
    """Runs of an experiment of `archlab grid`, one per seed."""

    protocol: str = ""
    """File beside this one; empty: the runs are named when the measurement is started."""
    arm: str = "vljepa"
    at: dict[str, Any] = field(default_factory=dict)
    """The level of each of its factors."""


@dataclass(frozen=True, kw_only=True)
class SelectiveProtocol(Section):
    """A measurement of selective decoding."""

    question: Named = ""
    hypothesis: Named = ""
    decision: Named = ""
    """What counts as reproduced, and what as not."""
    expect: list[Expectation] = field(default_factory=list)
    runs: GridRuns = field(default_factory=GridRuns)
    """What watches, unless other runs are named."""
    streams: StreamConfig = field(default_factory=StreamConfig)
    sweep: dict[str, list[Any]] = field(default_factory=dict)
    """Key of `streams` -> other values that it takes, one at a time."""
    budgets: Annotated[list[float], each(POSITIVE, least=1)] = field(default_factory=lambda: [0.25, 0.5, 1.0, 2.0, 4.0])
    """Decodes per event."""
    trigger: TriggerConfig = field(default_factory=TriggerConfig)
    """Of the online triggers; thresholds are tuned."""
    settle: Count = 8
    """Of the trigger that waits: what it speaks of is the mean of so many frames, unless a segment is shorter."""
    validation_streams: Count = 12
    test_streams: Annotated[int, at_least(2)] = 40
    timed_streams: Count = 2
    """Streams of which every policy is timed, frame by frame."""
    bootstrap_samples: Annotated[int, at_least(100)] = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        if 1.0 not in self.budgets:
            raise UserError(f"budgets={self.budgets}: must hold 1.0, the oracle's number of decodes")

    def conditions(self) -> dict[str, StreamConfig]:
        """Name -> streams: the base, and one factor changed at a time."""
        found = {BASE: self.streams}
        for key, values in self.sweep.items():
            for value in values:
                changed = build(StreamConfig, to_dict(self.streams) | {key: value})
                if changed != self.streams:
                    found[f"{key}={value}"] = changed
        return found


def load_selective(path: Path) -> SelectiveProtocol:
    """Read and check a protocol.

    Raises:
        UserError: it cannot be read, leaves out what decides, or names what there is not.
    """
    raw = read_yaml(path)
    try:
        expected = raw.get("expect", [])
        if not isinstance(expected, list) or not all(isinstance(one, dict) for one in expected):
            raise UserError("expect: must be a list of expectations, each with 'policy' and 'over'")
        raw["expect"] = [build(Expectation, one) for one in expected]
        protocol = build(SelectiveProtocol, raw)
        for key in protocol.sweep:
            _known(key, _SWEPT, "sweep")
        conditions = list(protocol.conditions())
        for one in protocol.expect:
            _known(one.policy, LABELS, "expect.policy")
            _known(one.over, LABELS, "expect.over")
            _known(one.at, conditions, "expect.at")
            _alike(one)
    except UserError as error:
        raise UserError(f"protocol {path}: {error}") from None
    return protocol


def _alike(one: Expectation) -> None:
    """Refuse a comparison that pooling alone would decide."""
    if (one.policy in POOLED) != (one.over in POOLED):
        pools = one.policy if one.policy in POOLED else one.over
        others = [name for name in LABELS if (name in POOLED) == (one.policy in POOLED) and name != one.policy]
        raise UserError(
            f"expect: {one.policy!r} over {one.over!r}: {pools!r} speaks of the mean of a segment's frames, the other "
            f"of a single one; compare {one.policy!r} with one of {', '.join(others)}"
        )


def _known(name: str, names: Iterable[str], what: str) -> None:
    if name not in (known := list(names)):
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        raise UserError(f"{what}: {name!r} is unknown; did you mean {near!r}?")
