"""A stream: frames in which something happens now and then, with what is true of each of them.

Times are frame numbers, from 0. A segment is a run of frames of one meaning; where it ends something happened that must
be said (an event). What changes inside a segment (noise, drift, exposure, a distraction) must not be said.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray

from archlab.config import Section
from archlab.data.scenes.world import Draws
from archlab.errors import UserError
from archlab.rules import Count, Natural, NonNegative, Positive, Share, between


@dataclass(frozen=True, kw_only=True)
class StreamConfig(Section):
    """How streams are drawn."""

    frames: Count = 240
    interval: Positive = 12.0
    """Mean number of frames between two events. Gaps are random: `shortest`, and a geometric number beyond it."""
    shortest: Count = 3
    """Fewest frames of a segment."""
    contrast: Literal["low", "medium", "high"] = "medium"
    """How much an event changes. Scenes: an attribute of an object, one object, everything. Images: to the most similar
    of several pictures of another meaning, to any, to the least similar."""
    distractions: NonNegative = 1.0
    """Abrupt changes that must not be said, per event on average: another background behind the same objects, or
    another picture of the same meaning."""
    drift: Share = 1.0
    """How far objects (scenes) or the camera (images) move: 1 is as far as leaves captions true, or 3 pixels."""
    exposure: Annotated[float, between(0, 0.5)] = 0.1
    """Largest slow change of brightness, as a share of it."""
    noise: Share = 0.5
    """Pixel noise, new in every frame: 1 is the most that the built-in scenes have, or 8 grey levels on images."""
    seed: Natural = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.interval < self.shortest:
            raise UserError(f"interval={self.interval!r}: must be at least shortest={self.shortest}")
        if self.frames < self.shortest:
            raise UserError(f"frames={self.frames!r}: must be at least shortest={self.shortest}")


@dataclass(frozen=True, slots=True)
class Segment:
    """Frames `start` to `stop - 1`, which mean one thing.

    Attributes:
        texts: surface forms of what is true, the canonical one first.
        meaning: id of what is true.
    """

    start: int
    stop: int
    texts: Sequence[str]
    meaning: str

    @property
    def middle(self) -> int:
        """The frame that an annotation of this segment stands at."""
        return (self.start + self.stop - 1) // 2


@dataclass(frozen=True)
class Stream:
    """Frames that are drawn when they are asked for.

    Attributes:
        name: unique among the streams of a source, stable between runs.
        query: what is asked of every frame.
        segments: without gaps, from frame 0.
        draw: frames `start` to `stop - 1` as uint8 RGB, (n, H, W, 3): a frame is the same whichever are drawn with it.
    """

    name: str
    query: str
    segments: tuple[Segment, ...]
    draw: Callable[[int, int], NDArray[np.uint8]]

    @property
    def frames(self) -> int:
        """Length of the stream."""
        return self.segments[-1].stop


def event_times(draws: Draws, frames: int, interval: float, shortest: int) -> list[int]:
    """Random frames at which something happens, at least `shortest` apart and away from both ends.

    Beyond the shortest gap they are memoryless: how long nothing happened says nothing of when something will.
    """
    ending = 1 / (1 + interval - shortest)  # chance, per frame beyond the shortest gap, that the gap ends
    times: list[int] = []
    now = 0
    while True:
        beyond = 0 if ending == 1 else math.floor(math.log(1 - draws.uniform()) / math.log(1 - ending))
        now += shortest + beyond
        if now > frames - shortest:
            return times
        times.append(now)


def distraction_times(draws: Draws, config: StreamConfig, events: Sequence[int]) -> list[int]:
    """Random frames of abrupt changes that mean nothing; never that of an event."""
    if not config.distractions:
        return []
    times = event_times(draws, config.frames, max(1.0, config.interval / config.distractions), 1)
    return [time for time in times if time not in events]


@dataclass(frozen=True, slots=True)
class Swing:
    """A slow oscillation between -1 and 1, with which things drift without ever getting anywhere."""

    period: float
    phase: float

    @classmethod
    def sample(cls, draws: Draws) -> Swing:
        """With a period of 20 to 60 frames."""
        return cls(draws.uniform(20, 60), draws.uniform())

    def at(self, frame: int) -> float:
        """Where it is in a frame."""
        return math.sin(2 * math.pi * (frame / self.period + self.phase))


def exposed(images: NDArray[np.uint8], start: int, swing: Swing, exposure: float) -> NDArray[np.uint8]:
    """Frames `start`, `start + 1`, ... made brighter and darker over time."""
    gains = np.array([1 + exposure * swing.at(start + row) for row in range(len(images))], dtype=np.float32)
    brighter: NDArray[np.uint8] = np.clip(images * gains[:, None, None, None] + 0.5, 0, 255).astype(np.uint8)
    return brighter
