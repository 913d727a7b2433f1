"""Who decides which frames are put into words. All that decode as often are comparable.

Offline policies have seen the whole stream before they decide, and know how many events it has: they get exactly as
many decodes as they may have. Live ones decide after each frame from the past alone, and do not know.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from archlab.compare.selective.recording import Recording, Span
from archlab.compare.selective.trigger import OnlineTrigger, TriggerConfig

View = Literal["embeddings", "features", "mean-features"]
"""Predicted embeddings; or features of the frozen encoder, of all visual tokens side by side, or their mean."""


@dataclass(frozen=True, slots=True)
class Decode:
    """One text.

    Attributes:
        since: the first frame that shows it, if frames show what was said last. Offline policies label a recording: the
            text of a segment shows from its first frame on. What is live shows once it is said.
        span: frames whose mean embedding is spoken.
    """

    since: int
    span: Span

    @property
    def frame(self) -> int:
        """Where it stands in time: the middle of what it speaks of, as in the paper, whenever it is said."""
        return sum(self.span) // 2

    @property
    def begins(self) -> int:
        """Where the segment that it speaks of begins, for the policy: a live one tells later where it cut."""
        return min(self.since, self.span[0])

    @property
    def waited(self) -> int:
        """Frames between the first that it speaks of and the first that shows it."""
        return self.since - self.span[0]


Decide = Callable[[Recording, float], list[Decode]]
"""From a stream and the number of decodes per event to decodes in the order of time."""


def allowed(recording: Recording, budget: float) -> int:
    """Decodes of a stream at `budget` decodes per event: at least one, at most one for each frame."""
    stream = recording.stream
    return min(max(1, round(budget * len(stream.segments))), stream.frames)


def trigger_policy(view: View, tuned: Mapping[float, TriggerConfig]) -> Decide:
    """The online trigger on what it sees of a stream.

    Args:
        tuned: decodes per event -> the trigger that was tuned to them.
    """
    return lambda recording, budget: triggered(watch(recording, view), tuned[budget])


def watch(recording: Recording, view: View) -> np.ndarray:
    """What is seen of every frame, one row each."""
    every = range(recording.stream.frames)
    if view == "embeddings":
        return recording.embeddings(every)
    features = recording.features(every)
    return features.flatten(1).numpy() if view == "features" else features.mean(1).numpy()


def triggered(seen: np.ndarray, config: TriggerConfig) -> list[Decode]:
    """Decodes of the trigger that is shown the rows of `seen` one by one."""
    trigger = OnlineTrigger(config)
    events = [*(trigger.update(row) for row in seen), trigger.finish()]
    return [Decode(event.frame, (event.start, event.last)) for event in events if event is not None]


def _windows(starts: Sequence[int], frames: int, pooled: bool) -> list[Decode]:
    """A decode in the middle of every segment, of its middle frame or of all its frames."""
    decodes = []
    for start, stop in zip(starts, [*starts[1:], frames], strict=True):
        middle = (start + stop - 1) // 2
        decodes.append(Decode(start, (start, stop - 1) if pooled else (middle, middle)))
    return decodes


def _uniform(pooled: bool) -> Decide:
    def decide(recording: Recording, budget: float) -> list[Decode]:
        return _windows(_evenly(recording, budget), recording.stream.frames, pooled)

    return decide


def _periodic(recording: Recording, budget: float) -> list[Decode]:
    return [Decode(frame, (frame, frame)) for frame in _evenly(recording, budget)]


def _evenly(recording: Recording, budget: float) -> list[int]:
    count, frames = allowed(recording, budget), recording.stream.frames
    return [number * frames // count for number in range(count)]


def _random(recording: Recording, budget: float) -> list[Decode]:
    count, frames = allowed(recording, budget), recording.stream.frames
    generator = np.random.default_rng([zlib.crc32(recording.stream.name.encode()), count])
    inner = generator.choice(np.arange(1, frames), count - 1, replace=False)
    return _windows([0, *sorted(inner.tolist())], frames, pooled=True)


def _ward(view: View, pooled: bool) -> Decide:
    def decide(recording: Recording, budget: float) -> list[Decode]:
        starts = ward_segments(watch(recording, view), allowed(recording, budget))
        return _windows(starts, recording.stream.frames, pooled)

    return decide


def ward_segments(seen: np.ndarray, count: int) -> list[int]:
    """First frames of `count` segments: agglomerative clustering of which only neighbours in time may be merged.

    Args:
        seen: one row per frame.
    """
    from scipy.sparse import diags_array  # both are slow to import
    from sklearn.cluster import AgglomerativeClustering

    frames = len(seen)
    chain = diags_array([np.ones(frames - 1)] * 2, offsets=[-1, 1], shape=(frames, frames)).tocsr()
    labels = AgglomerativeClustering(count, connectivity=chain, linkage="ward").fit_predict(seen)
    return [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist()]


def _oracle(pooled: bool) -> Decide:
    def decide(recording: Recording, budget: float) -> list[Decode]:
        return _windows([one.start for one in recording.stream.segments], recording.stream.frames, pooled)

    return decide


def _oracle_live(recording: Recording, budget: float) -> list[Decode]:
    return [Decode(one.start, (one.start, one.start)) for one in recording.stream.segments]


UNTUNED: dict[str, Decide] = {
    "uniform": _uniform(pooled=False),
    "uniform-pooled": _uniform(pooled=True),
    "random": _random,
    "ward": _ward("embeddings", pooled=True),
    "ward-exact": _ward("embeddings", pooled=False),
    "ward-features": _ward("features", pooled=True),
    "ward-mean-features": _ward("mean-features", pooled=True),
    "periodic": _periodic,
    "oracle": _oracle(pooled=True),
    "oracle-exact": _oracle(pooled=False),
    "oracle-live": _oracle_live,
}
"""Name -> policy, of those that have nothing to learn from validation streams."""

TRIGGERS: dict[str, tuple[View, bool]] = {
    "trigger": ("embeddings", False),
    "trigger-settled": ("embeddings", True),
    "trigger-features": ("features", False),
    "trigger-mean-features": ("mean-features", False),
}
"""Name -> what a trigger watches, and whether it waits until a segment has settled."""

POOLED = ("uniform-pooled", "random", "ward", "ward-features", "ward-mean-features", "oracle", "trigger-settled")
"""Those that speak of the mean of a segment's frames; all others of a single frame or, as a trigger that does not wait,
of as few as showed a change. A mean says more than a frame, wherever a stream is cut: what pools is compared with what
pools."""

ORACLES = ("oracle", "oracle-exact", "oracle-live")
"""Those that know the events and decode once for each."""


@dataclass(frozen=True, slots=True)
class Peers:
    """Between whom a policy stands: all speak of as many frames.

    Attributes:
        baseline: knows nothing of the stream. oracle: knows its events.
    """

    baseline: str
    oracle: str


def peers(policy: str, reading: str) -> Peers:
    """Those a policy is compared with; where delay counts ("dense"), those who speak at once of a single frame."""
    if reading == "dense":
        return Peers("periodic", "oracle-live")
    return Peers("uniform-pooled", "oracle") if policy in POOLED else Peers("uniform", "oracle-exact")


LABELS = {
    "uniform": "uniform, middle frame",
    "uniform-pooled": "uniform, pooled",
    "random": "random boundaries",
    "ward": "Ward",
    "ward-exact": "Ward, middle frame",
    "ward-features": "Ward on raw features",
    "ward-mean-features": "Ward on the mean of raw features",
    "oracle": "true boundaries",
    "oracle-exact": "true boundaries, middle frame",
    "periodic": "every k-th frame",
    "trigger": "online trigger",
    "trigger-settled": "online trigger that waits",
    "trigger-features": "online trigger on raw features",
    "trigger-mean-features": "online trigger on the mean of raw features",
    "oracle-live": "true boundaries, live",
}
"""Policy -> its name for a reader, offline policies first."""

LIVE = ("periodic", *TRIGGERS, "oracle-live")
"""Those that decide from the past alone; the oracle is told of an event when it happens."""


_NEAR_ONE = (0.9, 1.1)


def budgets_of(policy: str, budgets: Sequence[float]) -> list[float]:
    """At how many decodes per event a policy is measured.

    Who knows the events decodes once for each. What is tuned hits a number only nearly: it is measured on both sides of
    one as well, so that its score at exactly one is read off points close by.
    """
    if policy in ORACLES:
        return [1.0]
    return sorted({*budgets, *_NEAR_ONE}) if policy in TRIGGERS else list(budgets)
