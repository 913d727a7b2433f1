"""The online trigger: after every frame, from the past alone, whether something happened that should be put into words.

It is Ward's criterion, read causally. For every number j of last frames, up to a window, it asks what squared error it
costs to leave them in the current segment,

    cost(j) = j (n - j) / n * |mean of the last j - mean of the n - j before|^2 ,

which is also the generalised likelihood ratio of a jump of the mean in white noise (Lorden, "Procedures for reacting to
a change in distribution", 1971). Where the largest cost exceeds the threshold, a new segment began j frames ago. A
large change is noticed in its first frame; a small one has to last, so that noise of single frames does not count.

Whoever cannot tune a threshold says instead how often a segment should begin: `PacedTrigger` finds it on the way.

The state is a handful of vectors. The module imports neither torch nor anything that trains.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from archlab.config import Section
from archlab.rules import Count, Positive

_STEP = 0.2  # of the logarithm of a threshold that follows its stream, per segment more or less than wanted
_LOWEST = 10  # how many times lower than at the start such a threshold may be


@dataclass(frozen=True, kw_only=True)
class TriggerConfig(Section):
    """How sensitive a trigger is."""

    threshold: Positive = 0.5
    """Squared distance of normalised embeddings, times frames, above which a change is believed."""
    window: Count = 3
    """Last frames among which a change may have begun. More find smaller changes, later."""
    settle: Count = 1
    """Frames after which a segment is spoken, with their mean; one that ends before is spoken when it ends. At 1 a text
    is there at once; later it is better."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something to put into words.

    Attributes:
        start, last: the frames that it is about, as far as the trigger can tell.
        frame: the frame at which it is spoken, the last one seen. Later than `last` where the segment was over before
            it had settled.
        embedding: mean of the frames from `start` to `last`, (E,): what to decode.
    """

    start: int
    last: int
    frame: int
    embedding: NDArray[np.float64]


class OnlineTrigger:
    """Watches one stream.

        trigger = OnlineTrigger(TriggerConfig(threshold=0.6))
        for embedding in stream:
            if (event := trigger.update(embedding)) is not None:
                speak(event.embedding)

    Every segment is an event once, the first one of a stream too; `finish` gives a last one that did not settle.

    Attributes:
        threshold: in force.
        segments: begun so far.
    """

    def __init__(self, config: TriggerConfig) -> None:
        self.config = config
        self.threshold = config.threshold
        self.segments = 0  # begun so far
        self._tail: deque[NDArray[np.float64]] = deque(maxlen=config.window)  # last frames of the segment
        self._sum: NDArray[np.float64] = np.zeros(0)  # of the segment's frames, (E,)
        self._count = 0  # frames of the segment, n
        self._frame = -1
        self._said = False  # whether the segment was spoken

    def update(self, embedding: ArrayLike) -> Event | None:
        """Take the next frame's embedding (E,); the event to speak now, if there is one.

        Raises:
            ValueError: the embedding is not a vector of the width of those before, or not finite. The state stays as
                it was.
        """
        vector = self._checked(embedding)
        self._sum = self._sum + vector if self._count else vector
        self.segments += not self._count  # the first
        self._frame += 1
        self._count += 1
        self._tail.append(vector)
        if (ended := self._cut()) is not None:
            return ended  # a new segment that has settled already is spoken with the next frame
        return self._speak() if self._count >= self.config.settle else None

    def finish(self) -> Event | None:
        """The event of the last segment, if the stream ended before it settled."""
        return self._speak() if self._count else None

    def _speak(self) -> Event | None:
        """The segment so far, once."""
        if self._said:
            return None
        self._said = True
        return Event(self._frame - self._count + 1, self._frame, self._frame, self._sum / self._count)

    def _cut(self) -> Event | None:
        """Begin a new segment with the last frames, if leaving them in this one costs more than the threshold.

        Returns:
            the old segment, if it was not spoken yet.
        """
        most, begins, new_sum = self.threshold, 0, self._sum
        tail = np.zeros_like(self._sum)
        for length in range(1, min(len(self._tail), self._count - 1) + 1):
            tail = tail + self._tail[-length]
            before = self._count - length
            gap = tail / length - (self._sum - tail) / before
            cost = length * before / self._count * float(gap @ gap)
            if cost > most:
                most, begins, new_sum = cost, length, tail
        if not begins:
            return None
        before, last = self._count - begins, self._frame - begins
        ended = Event(last - before + 1, last, self._frame, (self._sum - new_sum) / before)
        unsaid = not self._said
        while len(self._tail) > begins:
            self._tail.popleft()
        self._sum, self._count, self._said = new_sum, begins, False
        self.segments += 1
        return ended if unsaid else None

    def _checked(self, embedding: ArrayLike) -> NDArray[np.float64]:
        vector = np.array(embedding, dtype=np.float64)  # a copy: the caller may reuse its buffer
        if vector.ndim != 1 or (self._count and vector.shape != self._sum.shape):
            wanted = f"of shape {self._sum.shape} like those before" if self._count else "a vector"
            raise ValueError(f"embedding of shape {vector.shape}: must be {wanted}")
        if not np.isfinite(vector).all():
            raise ValueError("embedding: holds a number that is not finite")
        return vector


class PacedTrigger(OnlineTrigger):
    """Its threshold follows the stream, so that in the long run a segment begins once in so many frames.

    After every frame the logarithm of the threshold moves against the surprise (Robbins and Monro, "A stochastic
    approximation method", 1951): up where a segment began, down a little where none did. It goes no lower than a tenth
    of where it began: where nothing happens, noise is not spoken of.

    Args:
        config: with the threshold to begin with.
        interval: frames from one segment to the next.
    """

    def __init__(self, config: TriggerConfig, interval: float) -> None:
        super().__init__(config)
        self._interval = interval

    def update(self, embedding: ArrayLike) -> Event | None:
        """See `OnlineTrigger.update`."""
        before = self.segments
        event = super().update(embedding)
        surprise = (self.segments - before) - 1 / self._interval
        self.threshold = max(self.threshold * math.exp(_STEP * surprise), self.config.threshold / _LOWEST)
        return event
