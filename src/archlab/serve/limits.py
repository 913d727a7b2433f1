"""What keeps one caller from starving the others, and all of them from filling the memory."""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

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

    def take(self, items: int, begun: int = 0) -> float:
        """Take items, or nothing.

        Args:
            begun: items of the same request that were taken before: a bucket was full if it was so then.

        Returns:
            0, or the seconds after which they can be taken.
        """
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._filled) * self._rate)
        self._filled = now
        lacking = min(items, self._burst - begun) - self._tokens
        if lacking > 1e-9:
            return lacking / self._rate
        self._tokens -= items
        return 0.0


class Stock:
    """An amount of something, of which callers take shares that leave some for whoever comes next.

    What one caller may hold shrinks with what is free (dynamic thresholds: Choudhury and Hahne, 1998): one alone may
    have `share` of it all, two that want more have the same each, and however many flood it, a newcomer finds room.

    Args:
        what: one sentence for who is refused, with `{held}` for what is held already.
        most: that all hold together.
        share: of it that one caller may hold while nobody else does, from 0 to 1.
    """

    def __init__(self, what: str, most: int, share: float = 1.0) -> None:
        self._what, self._most, self._share = what, most, share
        self.held = 0
        self._callers: Counter[str] = Counter()

    def check(self, caller: str, amount: int) -> None:
        """Refuse what does not fit. Who holds nothing always gets one: its size is limited on its own.

        Raises:
            Problem: there is no room for it; the service is full, or the caller has its share.
        """
        own, free = self._callers.get(caller, 0), self._most - self.held - amount
        if self.held and free < 0:
            raise Problem(problems.OVERLOADED, self._what.format(held=self.held), retry_after=1)
        if own and amount and (1 - self._share) * (own + amount) > self._share * free:
            detail = f"Of key {caller!r} alone: {self._what.format(held=own)} What is left is for others."
            raise Problem(problems.RATE_LIMITED, detail, retry_after=1)

    def take(self, caller: str, amount: int) -> None:
        """Take an amount, which may be negative: it is given back."""
        self.held += amount
        self._callers[caller] += amount
        if not self._callers[caller]:
            del self._callers[caller]


class Room:
    """How many requests, and how many bytes of their bodies, are in progress at most.

    Bytes are reserved before they are read: a flood of large bodies meets the limit, not the memory.

    Args:
        requests: at most in progress.
        size: bytes of all bodies at most.
        share: see `Stock`.
    """

    def __init__(self, requests: int, size: int, share: float = 1.0) -> None:
        self._requests = Stock("{held} requests are in progress, as many as allowed.", requests, share)
        self._bytes = Stock(
            "The requests in progress hold {held} bytes; this one does not fit beside them.", size, share
        )

    @property
    def requests(self) -> int:
        """In progress."""
        return self._requests.held

    @property
    def size(self) -> int:
        """Bytes that are reserved."""
        return self._bytes.held

    @contextmanager
    def taken(self, caller: str, size: int) -> Iterator[None]:
        """Hold room for one request with a body of `size` bytes.

        Raises:
            Problem: there is none.
        """
        amounts = ((self._requests, 1), (self._bytes, size))
        for stock, amount in amounts:
            stock.check(caller, amount)
        for stock, amount in amounts:
            stock.take(caller, amount)
        try:
            yield
        finally:
            for stock, amount in amounts:
                stock.take(caller, -amount)


class Turns:
    """Places for work, taken by callers in turns: who sends a hundred images delays the next caller by one of them.

    Args:
        places: pieces of work at once.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()  # in the order of their turns

    @asynccontextmanager
    async def place(self, caller: str) -> AsyncIterator[None]:
        """Hold a place; cancelling the wait takes the caller's piece out of the queue."""
        if self._free:
            self._free -= 1
        else:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(caller, deque()).append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if not turn.cancelled():  # its turn had come just then
                    self._pass_on()
                raise
        try:
            yield
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        while self._waiting:
            caller, line = self._waiting.popitem(last=False)
            turn = line.popleft()
            if line:
                self._waiting[caller] = line  # behind the others
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
