"""What each policy costs, from the frame to the text: every frame and text on its own, as they come in a live stream.

A policy pays for the frames that it looks at. One that watches for changes has to encode all of them; one that decodes
at fixed times need not even look at the others.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from archlab.compare.selective.policies import Decide, ward_segments
from archlab.compare.selective.recording import PARTS, Recording, Watcher
from archlab.data.streams.stream import Stream

MODEL_PARTS = tuple(part for part in PARTS if part != "drawing")
"""What of a recording's time belongs to the policy: frames come from a camera."""


def time_policies(
    policies: Mapping[str, Decide], streams: Sequence[Stream], watcher: Watcher
) -> dict[str, dict[str, Any]]:
    """Policy -> seconds of each part and of deciding, over all streams, at one decode per event.

    The policies take turns on each stream, so that all meet the same load.
    """
    ward_segments(np.eye(3), 2)  # what is imported by the first call is not a cost of the policy
    _time(policies["uniform"], streams[0], watcher)
    spent: dict[str, dict[str, Any]] = {}
    for stream in streams:
        for name, decide in policies.items():
            for key, value in _time(decide, stream, watcher).items():
                total = spent.setdefault(name, {})
                total[key] = total.get(key, 0) + value
    return spent


def _time(decide: Decide, stream: Stream, watcher: Watcher) -> dict[str, float]:
    recording = Recording(stream, watcher, batch=1)
    start = time.perf_counter()
    decodes = decide(recording, 1.0)
    recording.speak([decode.span for decode in decodes])
    total = time.perf_counter() - start
    parts = {part: recording.seconds[part] for part in MODEL_PARTS}
    return parts | {
        "decide": total - sum(recording.seconds.values()),
        "decodes": len(decodes),
        "events": len(stream.segments),
        "frames": stream.frames,
    }
