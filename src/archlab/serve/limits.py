"""What keeps one caller from starving the others, and all of them from filling the memory."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from archlab.serve import problems
from archlab.serve.problems import Problem


class TokenBucket:
    """Items that a caller may ask for: `rate` a second, and `burst` at once after a pause.

    A request of more items than the burst passes when the bucket is full and is paid off afterwards.

    Args:
        rate: items a second.
        burst: items in a full bucket.
        clock: seconds.
    """

    def __init__(self, rate: float, burst: float, clock: Callable[[], float]) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._tokens, self._filled = burst, clock()

    def take(self, items: int) -> float:
        """Take items, or nothing.

        Returns:
            0, or the seconds after which they can be taken.
        """
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._filled) * self._rate)
        self._filled = now
        lacking = min(items, self._burst) - self._tokens
        if lacking > 1e-9:
            return lacking / self._rate
        self._tokens -= items
        return 0.0


class Room:
    """How many requests, and how many bytes of their bodies, are in progress at most.

    Bytes are reserved before they are read: a flood of large bodies meets the limit, not the memory.

    Args:
        requests: at most in progress.
        size: bytes of all bodies at most.
    """

    def __init__(self, requests: int, size: int) -> None:
        self._requests, self._size = requests, size
        self.requests = self.size = 0

    @contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """Hold room for one request with a body of `size` bytes.

        Raises:
            Problem: there is none.
        """
        if self.requests >= self._requests:
            raise Problem(
                problems.OVERLOADED, f"{self.requests} requests are in progress, as many as allowed.", retry_after=1
            )
        # A single request always fits: its size is limited on its own.
        if self.requests and self.size + size > self._size:
            raise Problem(
                problems.OVERLOADED,
                f"The requests in progress hold {math.ceil(self.size / 2**20)} MiB; this one does not fit beside them.",
                retry_after=1,
            )
        self.requests, self.size = self.requests + 1, self.size + size
        try:
            yield
        finally:
            self.requests, self.size = self.requests - 1, self.size - size
