"""One run on one kind of streams: thresholds from validation streams, then every policy on the test streams.

A cell keeps sums per stream, from which means and intervals over streams and seeds are computed, and no texts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from archlab import machine
from archlab.compare.selective.policies import (
    LABELS,
    TRIGGERS,
    UNTUNED,
    Decide,
    budgets_of,
    trigger_policy,
)
from archlab.compare.selective.protocol import BASE, SelectiveProtocol
from archlab.compare.selective.recording import Recording, Watcher
from archlab.compare.selective.scoring import Judge
from archlab.compare.selective.timing import time_policies
from archlab.compare.selective.tuning import Tuned, tune
from archlab.config import RunConfig, to_dict
from archlab.data.streams import Stream, StreamConfig, stream_source
from archlab.train.folder import write_text

ANOTHER, CEILING = "another stream's text", "true captions, decoded"
"""Controls: how much a text is worth that was said of something else, and what the decoder makes of the truth."""


@dataclass(frozen=True)
class StreamCell:
    """What is measured together.

    Attributes:
        run: folder of the trained run. config: its configuration.
        weights: hash of its weights.
        condition: name of the streams. protocol: how they are measured.
        key: name of the cell, made of all that its results depend on.
    """

    run: Path
    config: RunConfig
    weights: str
    condition: str
    protocol: SelectiveProtocol
    key: str = field(init=False)

    def __post_init__(self) -> None:
        own = self.protocol
        made_of = [
            self.weights,
            to_dict(self.streams),
            own.budgets,
            to_dict(own.trigger),
            own.settle,
            [own.validation_streams, own.test_streams, own.timed_streams if self.condition == BASE else 0],
        ]
        object.__setattr__(self, "key", hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16])

    @property
    def streams(self) -> StreamConfig:
        """What is watched."""
        return self.protocol.conditions()[self.condition]


def finish(cell: StreamCell, path: Path) -> None:
    """Measure a cell and write its results."""
    watcher = Watcher.open(cell.run)
    write_text(path, json.dumps(measure(cell, watcher), indent=None, allow_nan=False) + "\n")


def measure(cell: StreamCell, watcher: Watcher) -> dict[str, Any]:
    """The results of a cell."""
    protocol = cell.protocol
    streams = partial(stream_source(cell.config.data, watcher.answerer.encoder.image_size), cell.streams)
    tuned = _tuned(streams, watcher, protocol)
    policies: dict[str, Decide] = UNTUNED | {
        name: trigger_policy(view, {budget: one.config for budget, one in tuned[name].items()})
        for name, (view, _) in TRIGGERS.items()
    }
    tests = list(streams("test", protocol.test_streams))
    timing = {}
    if cell.condition == BASE:
        timing = time_policies(policies, tests[: protocol.timed_streams], watcher)
    return {
        "key": cell.key,
        "condition": cell.condition,
        "seed": cell.config.seed,
        "git": machine.git_commit(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine.describe(),
        "streams": to_dict(cell.streams),
        "annotations": [len(stream.segments) for stream in tests],
        "frames": [stream.frames for stream in tests],
        "tuned": {
            name: {f"{budget:g}": asdict(one.config) | {"rate": one.rate} for budget, one in of.items()}
            for name, of in tuned.items()
        },
        **_scores(tests, watcher, policies, protocol),
        "timing": timing,
    }


def _tuned(
    streams: Callable[[str, int], Iterator[Stream]], watcher: Watcher, protocol: SelectiveProtocol
) -> dict[str, dict[float, Tuned]]:
    """Trigger -> decodes per event -> its setting. Waiting changes when a segment is spoken, not how many are."""
    recordings = [Recording(stream, watcher) for stream in streams("validation", protocol.validation_streams)]
    views = dict.fromkeys(view for view, _ in TRIGGERS.values())
    budgets = budgets_of("trigger", protocol.budgets)
    found = {view: tune(recordings, view, budgets, protocol.trigger) for view in views}
    return {
        name: {budget: one.settled(protocol.settle) if waits else one for budget, one in found[view].items()}
        for name, (view, waits) in TRIGGERS.items()
    }


def _scores(
    tests: list[Stream], watcher: Watcher, policies: dict[str, Decide], protocol: SelectiveProtocol
) -> dict[str, Any]:
    places = [(name, budget) for name in LABELS for budget in budgets_of(name, protocol.budgets)]
    oracle = "oracle", 1.0
    judge, oracle_says = Judge(tests), []
    for number, stream in enumerate(tests):
        recording = Recording(stream, watcher)
        decided = {(name, budget): policies[name](recording, budget) for name, budget in places}
        recording.speak([decode.span for decodes in decided.values() for decode in decodes])  # in large batches
        for place, decodes in decided.items():
            judge.add(place, number, decodes, recording.speak([decode.span for decode in decodes]))
        oracle_says.append((decided[oracle], recording.speak([decode.span for decode in decided[oracle]])))
        truth = watcher.readout.text_vectors([segment.texts[0] for segment in stream.segments])
        judge.add((CEILING, 1.0), number, decided[oracle], watcher.readout.decode(truth))
    for number, (decodes, _) in enumerate(oracle_says):
        others = oracle_says[(number + 1) % len(tests)][1]
        judge.add((ANOTHER, 1.0), number, decodes, [others[row % len(others)] for row in range(len(decodes))])
    sums = judge.sums()
    return {
        "facts": judge.facts,
        "policies": {
            name: {f"{budget:g}": sums[name, budget] for budget in budgets_of(name, protocol.budgets)}
            for name in LABELS
        },
        "controls": {name: sums[name, 1.0] for name in (ANOTHER, CEILING)},
    }
