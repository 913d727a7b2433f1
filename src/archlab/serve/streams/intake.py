"""Frames that wait to be watched: bounded, whatever their sender does.

Credit works as in HTTP/2: a sender has so many frames, gives one away with each that it sends, and gets them back as
they are dealt with. What waits never holds more than the credit and one frame.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Literal

from archlab.serve import problems
from archlab.serve.problems import Problem


@dataclass(frozen=True, slots=True)
class Frame:
    """What was sent.

    Attributes:
        number: among all frames of its stream, from 0.
        timestamp: seconds.
        image: encoded; or why it is not kept.
    """

    number: int
    timestamp: float
    image: str | bytes | Problem


class Intake:
    """The frames of one stream between its reader and its worker, two tasks of one event loop.

    Args:
        credit: frames that were sent and are not dealt with, at most.
        overload: see `messages.Configure`.

    Attributes:
        received, dropped: frames so far.
        done: frames that were dealt with, dropped ones included.
        closed: whether no more frames are taken.
    """

    def __init__(self, credit: int, overload: Literal["close", "drop"]) -> None:
        self._credit, self._overload = credit, overload
        self._waiting: deque[Frame] = deque()
        self._changed = asyncio.Event()
        self.received = self.dropped = self.done = 0
        self.closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def outstanding(self) -> int:
        """Frames that were sent and are not dealt with."""
        return self.received - self.done

    def put(self, timestamp: float, image: str | bytes | Problem) -> None:
        """Take a frame; beyond the credit, drop the oldest that waits.

        Raises:
            Problem: it is beyond the credit of a stream that is to be closed then.
        """
        if self._overload == "close" and self.outstanding >= self._credit:
            raise Problem(
                problems.RATE_LIMITED,
                f"{self.outstanding + 1} frames are not acknowledged and at most {self._credit} may be; wait for "
                f"acknowledgements, or choose overload 'drop'.",
            )
        self._waiting.append(Frame(self.received, timestamp, image))
        self.received += 1
        while self.outstanding > self._credit and len(self._waiting) > 1:  # of a live picture the newest is worth most
            self._waiting.popleft()
            self.dropped, self.done = self.dropped + 1, self.done + 1
        self._changed.set()

    def close(self) -> None:
        """Take no more; what waits is still dealt with."""
        self.closed = True
        self._changed.set()

    async def filled(self) -> bool:
        """Wait until frames wait; False: there are none, and none will come."""
        while not self._waiting and not self.closed:
            self._changed.clear()
            await self._changed.wait()
        return bool(self._waiting)

    def take(self, count: int) -> list[Frame]:
        """The oldest frames that wait; call `settle` when they are dealt with."""
        return [self._waiting.popleft() for _ in range(count)]

    def settle(self, frames: int) -> None:
        """So many were dealt with."""
        self.done += frames
