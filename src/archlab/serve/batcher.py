"""A micro-batcher for asyncio: what is queued while one batch computes makes the next one.

Nothing waits for a batch to fill up, and nothing is computed that nobody waits for any more. The queue is bounded in
items, not in calls, and callers take turns: whoever sends a thousand items delays the others by one batch, not by all.
One that is more work than others counts as several: a question with a hundred candidate answers is a hundred items.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal, Protocol

from archlab.config import Section
from archlab.errors import UserError
from archlab.rules import Count, NonNegative, Positive
from archlab.serve.errors import Expired, NotReady, Overloaded

Group = Hashable
Compute = Callable[[Any, list[Any]], Awaitable[Sequence[Any]]]
"""Group and items -> one result for each, in their order. Never asked for two batches at once."""

Weigh = Callable[[Any, Any], int]
"""Group and item -> as how many items it counts, at least 1."""

Reason = Literal["refused", "cancelled", "expired", "failed", "wasted"]
"""Why an item got no result: no room, its caller left, its time was up, or another item of its call failed. "wasted"
was computed, but its caller had left or its time was up when it was done."""

_MEMORY = 0.8  # of the measured pace, per batch
_FIRST_PACE = 0.05  # seconds per item before anything was measured


@dataclass(frozen=True, kw_only=True)
class BatchLimits(Section):
    """Bounds of one model's queue."""

    queue: Count = 1024
    """Most items that wait; a call with more than there is room for is refused as a whole."""
    batch: Count = 32
    """Most items that are computed at once."""
    linger: NonNegative = 0.0
    """Seconds to wait for more items when there are fewer than a batch; 0 computes what there is."""
    timeout: Positive = 30.0
    """Seconds until a call expires that names no deadline."""


class Observer(Protocol):
    """Told what happens, on the thread of the event loop."""

    def on_queue(self, queued: int) -> None:
        """So many items wait now."""
        ...

    def on_batch(self, group: Group, waits: Sequence[float], seconds: float) -> None:
        """A batch was computed in so many seconds; each of its items had waited before, in seconds."""
        ...

    def on_drop(self, reason: Reason, items: int) -> None:
        """So many items got no result."""
        ...


class Silent:
    """An observer that does nothing."""

    def on_queue(self, queued: int) -> None:
        """See `Observer`."""

    def on_batch(self, group: Group, waits: Sequence[float], seconds: float) -> None:
        """See `Observer`."""

    def on_drop(self, reason: Reason, items: int) -> None:
        """See `Observer`."""


@dataclass
class BatcherStats:
    """What a batcher is doing and has done.

    Attributes:
        queued, in_flight: items that wait and that are being computed.
        computing_since: when the batch in flight began, on the event loop's clock; None: there is none.
        batches, items: computed so far.
        pace: seconds per item lately; None before the first batch.
        dropped: items without a result, by reason.
    """

    queued: int = 0
    in_flight: int = 0
    computing_since: float | None = None
    batches: int = 0
    items: int = 0
    pace: float | None = None
    dropped: Counter[Reason] = field(default_factory=Counter)


@dataclass(eq=False, slots=True)
class _Call:
    caller: str
    deadline: float
    future: asyncio.Future[list[Any]]
    results: list[Any]
    missing: int
    entries: list[_Entry] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class _Entry:
    call: _Call
    place: int
    number: int
    group: Group
    item: Any
    weight: int
    arrived: float


_Lines = dict[Group, "OrderedDict[_Entry, None]"]  # first in, first out, and any entry can be taken out


class Batcher:
    """Collects items of many calls into batches of one group each.

    Args:
        compute: see `Compute`.
        limits: of the queue.
        observer: told what happens.
        weigh: see `Weigh`.
    """

    def __init__(
        self,
        compute: Compute,
        limits: BatchLimits | None = None,
        observer: Observer | None = None,
        weigh: Weigh = lambda group, item: 1,
    ) -> None:
        self.limits, self.stats = limits or BatchLimits(), BatcherStats()
        self._compute, self._observer, self._weigh = compute, observer or Silent(), weigh
        self._callers: OrderedDict[str, _Lines] = OrderedDict()  # in the order of their turns
        self._numbers = count()
        self._worker: asyncio.Task[None] | None = None
        self._handing: set[asyncio.Task[None]] = set()
        self._closed = False

    async def submit(
        self, work: Sequence[tuple[Group, Any]], *, deadline: float | None = None, caller: str = ""
    ) -> list[Any]:
        """Queue items and wait for their results; cancelling it takes out what is still queued.

        Args:
            work: group and item; only items of equal groups are computed together.
            deadline: on the event loop's clock; None: `BatchLimits.timeout` from now.
            caller: who asks; callers take turns.

        Returns:
            one result per item, in their order.

        Raises:
            Overloaded: there is no room for all items.
            Expired: the deadline has passed.
            NotReady: the batcher is being closed.
            UserError: there are more items than the queue ever holds.
            Exception: what `compute` raised for these items.
        """
        self._check_open()
        if not work:
            return []
        weights = [self._weigh(group, item) for group, item in work]
        total = sum(weights)
        if total > self.limits.queue:
            raise UserError(f"{total} items: must be at most {self.limits.queue} in one call; send them in parts")
        if self.stats.queued + total > self.limits.queue:
            self._dropped("refused", total)
            raise Overloaded(
                f"{self.stats.queued} items wait and at most {self.limits.queue} may; ask again later",
                self.retry_after(total),
            )
        loop = asyncio.get_running_loop()
        now = loop.time()
        if deadline is None:
            deadline = now + self.limits.timeout
        call = _Call(caller, deadline, loop.create_future(), [None] * len(work), len(work))
        lines = self._callers.setdefault(caller, {})
        for place, (group, item) in enumerate(work):
            entry = _Entry(call, place, next(self._numbers), group, item, weights[place], now)
            call.entries.append(entry)
            lines.setdefault(group, OrderedDict())[entry] = None
        self._queued(total)
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._drain())
        timer = loop.call_at(deadline, self._expire, call)
        try:
            return await call.future
        except asyncio.CancelledError:
            self._withdraw(call, "cancelled")
            raise
        finally:
            timer.cancel()
            call.entries.clear()  # no cycle is left for the garbage collector, which would stop everything

    def retry_after(self, items: int = 0) -> float:
        """Seconds until the queue of now and so many items more are done, at the measured pace."""
        pace = _FIRST_PACE if self.stats.pace is None else self.stats.pace
        return (self.stats.queued + self.stats.in_flight + items) * pace

    async def close(self) -> None:
        """Refuse new calls, and finish what is queued."""
        self._closed = True
        if self._worker is not None:
            await asyncio.wait([self._worker])
        await asyncio.gather(*self._handing)

    async def _drain(self) -> None:
        while self.stats.queued:
            if self.limits.linger and self.stats.queued < self.limits.batch:
                await asyncio.sleep(self.limits.linger)
            if entries := self._take():
                await self._run(entries)

    def _take(self) -> list[_Entry]:
        """The next batch: the oldest item of the caller whose turn it is, then of every caller one after the other."""
        now = asyncio.get_running_loop().time()
        for call in {entry.call for lines in self._callers.values() for line in lines.values() for entry in line}:
            if call.deadline <= now:  # its timer is late, as timers are when the event loop is busy
                self._expire(call)
        if not self._callers:
            return []
        first, lines = next(iter(self._callers.items()))
        group = next(iter(min(lines.values(), key=lambda line: next(iter(line)).number))).group
        turns = deque(caller for caller, lines in self._callers.items() if group in lines)
        self._callers.move_to_end(first)
        batch: list[_Entry] = []
        room = self.limits.batch
        while turns and room > 0:
            caller = turns.popleft()
            entry = next(iter(self._callers[caller][group]))
            if batch and entry.weight > room:  # one that is larger than any batch is one by itself
                continue
            self._remove(entry)
            batch.append(entry)
            room -= entry.weight
            if group in self._callers.get(caller, ()):
                turns.append(caller)
        self._queued(-_weight(batch))
        return batch

    async def _run(self, entries: list[_Entry]) -> None:
        loop = asyncio.get_running_loop()
        stats, started = self.stats, loop.time()
        stats.in_flight, stats.computing_since = _weight(entries), started
        outcomes = await self._outcomes(entries)
        seconds = loop.time() - started
        stats.in_flight, stats.computing_since = 0, None
        stats.batches, stats.items = stats.batches + 1, stats.items + _weight(entries)
        pace = seconds / _weight(entries)
        stats.pace = pace if stats.pace is None else _MEMORY * stats.pace + (1 - _MEMORY) * pace
        waits = [started - entry.arrived for entry in entries for _ in range(entry.weight)]
        self._observer.on_batch(entries[0].group, waits, seconds)
        results = []
        for entry, outcome in zip(entries, outcomes, strict=True):
            if isinstance(outcome, Exception):  # at once: what is left of the call is no part of the next batch
                self._settle(entry, outcome)
            else:
                results.append((entry, outcome))
        handing = loop.create_task(self._hand_out(results))
        self._handing.add(handing)
        handing.add_done_callback(self._handing.discard)

    async def _hand_out(self, results: list[tuple[_Entry, Any]]) -> None:
        """Answer one call in each turn of the event loop, which sends what it has at the end of a turn.

        So the first callers have their answers, and ask for more, while those of the others are still being made; all
        in one turn would leave them waiting for us, and then us for them.
        """
        for entry, result in results:
            self._settle(entry, result)
            if entry.call.future.done():
                await asyncio.sleep(0)

    async def _outcomes(self, entries: list[_Entry]) -> list[Any]:
        """The result of each entry, or the exception instead."""
        try:
            return await self._results(entries)
        except Exception as error:
            if all(entry.call is entries[0].call for entry in entries):
                return [error] * len(entries)
        # One caller's item must not fail another's: each call is computed by itself.
        outcomes: dict[_Entry, Any] = {}
        for call in dict.fromkeys(entry.call for entry in entries):
            own = [entry for entry in entries if entry.call is call]
            outcomes.update(zip(own, await self._outcomes(own), strict=True))
        return [outcomes[entry] for entry in entries]

    async def _results(self, entries: list[_Entry]) -> list[Any]:
        results = list(await self._compute(entries[0].group, [entry.item for entry in entries]))
        if len(results) != len(entries):
            raise RuntimeError(f"{len(results)} results for {len(entries)} items of group {entries[0].group!r}")
        return results

    def _settle(self, entry: _Entry, outcome: Any) -> None:
        call = entry.call
        if call.future.done():
            failed = not call.future.cancelled() and not isinstance(call.future.exception(), Expired)
            self._dropped("failed" if failed else "wasted", entry.weight)
        elif isinstance(outcome, Exception):
            call.future.set_exception(outcome)
            self._dropped("failed", entry.weight)
            self._withdraw(call, "failed")
        else:
            call.results[entry.place] = outcome
            call.missing -= 1
            if not call.missing:
                call.future.set_result(call.results)

    def _expire(self, call: _Call) -> None:
        if not call.future.done():
            call.future.set_exception(Expired("the deadline passed before there was an answer"))
            self._withdraw(call, "expired")

    def _withdraw(self, call: _Call, reason: Reason) -> None:
        """Take what is still queued of a call out of the queue."""
        lines = self._callers.get(call.caller, {})
        waiting = [entry for entry in call.entries if entry in lines.get(entry.group, ())]
        for entry in waiting:
            self._remove(entry)
        if waiting:
            self._queued(-_weight(waiting))
            self._dropped(reason, _weight(waiting))

    def _remove(self, entry: _Entry) -> None:
        lines = self._callers[entry.call.caller]
        line = lines[entry.group]
        del line[entry]
        if not line:
            del lines[entry.group]
        if not lines:
            del self._callers[entry.call.caller]

    def _check_open(self) -> None:
        if self._closed:
            raise NotReady("the model is being unloaded; ask again, another takes its place", self.retry_after())

    def _queued(self, change: int) -> None:
        self.stats.queued += change
        self._observer.on_queue(self.stats.queued)

    def _dropped(self, reason: Reason, items: int) -> None:
        self.stats.dropped[reason] += items
        self._observer.on_drop(reason, items)


def _weight(entries: Sequence[_Entry]) -> int:
    return sum(entry.weight for entry in entries)
