"""The vector index of a service, off the event loop."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import TypeVar

import numpy as np
import structlog

from archlab.errors import UserError
from archlab.index.filters import Filter
from archlab.index.places import SINGLE, Spread, is_server, open_index
from archlab.index.process import IsolatedCollection, IsolatedIndex
from archlab.index.protocol import Collection, Hit, IndexUnavailable, TakenName, UnknownCollection, VectorIndex
from archlab.serve import problems
from archlab.serve.errors import Expired
from archlab.serve.problems import Problem

Result = TypeVar("Result")
_THREADS = 8
_RETRY_AFTER = 5.0  # seconds
_AGAIN = 1.0  # second after which an index that could not be opened is tried anew: requests come faster than it fails
FAILURES = ("request", "optimize")
"""What the index can fail at: what a request asked of it, or building the graph of a collection."""


class Collections:
    """Opens the index when it is first needed, and again where that failed.

    Args:
        place: see `archlab.index.places.open_index`.
        observe: told the seconds that each work on the index took.
        spread: of collections that are created on a server.
        isolated: whether an embedded index has a process of its own.

    Attributes:
        sizes: points of each collection, as last seen.
        failures: times that the index could not be used, by one of `FAILURES`.
    """

    def __init__(
        self,
        place: str,
        observe: Callable[[float], None] = lambda _: None,
        spread: Spread = SINGLE,
        isolated: bool = False,
    ) -> None:
        self.place, self._observe, self._spread, self._isolated = place, observe, spread, isolated
        self.sizes: dict[str, int] = {}
        self.failures: Counter[str] = Counter()
        self._index: VectorIndex | None = None
        self._opening = Lock()
        self._refused: tuple[float, str] | None = None  # until when, and why
        self._closed = False
        self._threads = ThreadPoolExecutor(_THREADS, "index")
        self._builder = ThreadPoolExecutor(1, "graph")  # graphs take minutes, and requests need their threads
        self._optimizing: dict[str, asyncio.Task[None]] = {}
        self._changed: set[str] = set()  # collections that have changed since their graph was last begun

    @property
    def pid(self) -> int | None:
        """The process that has the index open, where that is not this one."""
        return self._index.pid if isinstance(self._index, IsolatedIndex) else None

    async def warm(self) -> None:
        """Open the index now if it exists: the first request need not wait. A failure is told by the requests."""
        if is_server(self.place) or Path(self.place).expanduser().is_dir():
            try:
                await self.run(lambda index: None)
            except Problem as problem:
                structlog.get_logger().warning("index not open", place=self.place, reason=problem.detail)

    async def run(self, work: Callable[[VectorIndex], Result], deadline: float = math.inf) -> Result:
        """Let a thread work on the index.

        Args:
            work: what to do.
            deadline: by the event loop's clock; what is under way then is not undone.

        Raises:
            Problem: there is no such collection, the name is taken, or the index cannot be used now.
            Expired: the deadline passed.
            UserError: what the work refuses.
        """
        loop = asyncio.get_running_loop()
        with self._observed():
            try:
                async with asyncio.timeout_at(deadline if math.isfinite(deadline) else None):
                    return await loop.run_in_executor(self._threads, lambda: work(self._opened(loop)))
            except TimeoutError:
                raise Expired("the deadline passed before the index had answered") from None

    async def open(self, name: str, deadline: float = math.inf) -> Collection:
        """A collection, without waiting for a thread where it was opened before; see `run`."""
        if self._index is not None and (found := self._index.opened(name)) is not None:
            return found
        return await self.run(lambda index: index.open(name), deadline)

    async def search(
        self, collection: Collection, vector: np.ndarray, k: int, where: Filter | None, deadline: float = math.inf
    ) -> list[Hit]:
        """The nearest points; see `run` and `Collection.search`."""
        if isinstance(collection, IsolatedCollection):
            with self._observed():
                return await collection.find(vector, k, where)
        if collection.holds_lock:  # the event loop would stand still in another thread too, and change threads twice
            with self._observed():
                return collection.search(vector, k, where)
        return await self.run(lambda _: collection.search(vector, k, where), deadline)

    def optimize(self, name: str) -> None:
        """Begin to make a collection fast to search, or again where that is being done; searches and changes go on."""
        self._changed.add(name)
        running = self._optimizing.get(name)
        if running is None or running.done():
            self._optimizing[name] = asyncio.create_task(self._optimize(name))

    async def close(self) -> None:
        """Write what is pending and let the index go; a graph that is being built is given up."""
        await asyncio.to_thread(self._shut)
        await asyncio.gather(*self._optimizing.values())
        for threads in (self._threads, self._builder):
            threads.shutdown(wait=False, cancel_futures=True)

    def _shut(self) -> None:
        with self._opening:  # which may take its time
            self._closed = True
            if self._index is not None:
                self._index.close()

    async def _optimize(self, name: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            while name in self._changed:  # points that come while a graph is built are not in it
                self._changed.remove(name)
                await loop.run_in_executor(self._builder, lambda: self._opened(loop).open(name).optimize())
        except UnknownCollection:  # it was dropped
            pass
        except (UserError, OSError) as error:
            self.failures["optimize"] += 1
            structlog.get_logger().warning("collection not optimised", collection=name, reason=str(error))

    @contextmanager
    def _observed(self) -> Iterator[None]:
        """Tell how long the work on the index inside the block takes, and answer what the index refuses."""
        started = time.perf_counter()
        try:
            yield
        except IndexUnavailable as error:
            self.failures["request"] += 1
            raise Problem(problems.NOT_READY, f"{error}.", retry_after=_RETRY_AFTER) from None
        except UnknownCollection as error:
            raise Problem(problems.NOT_FOUND, f"{error}.") from None
        except TakenName as error:
            raise Problem(problems.CONFLICT, f"{error}.") from None
        except OSError as error:
            self.failures["request"] += 1
            reason = error.strerror or str(error)
            raise Problem(
                problems.NOT_READY, f"The index cannot be used ({reason}).", retry_after=_RETRY_AFTER
            ) from error
        finally:
            self._observe(time.perf_counter() - started)

    def _opened(self, loop: asyncio.AbstractEventLoop) -> VectorIndex:
        with self._opening:
            if self._closed:
                raise IndexUnavailable("the service is about to end; ask another one")
            if self._index is None:
                if self._refused is not None and time.monotonic() < self._refused[0]:
                    raise IndexUnavailable(self._refused[1])
                try:
                    self._index = self._open(loop)
                except IndexUnavailable as error:
                    self._refused = time.monotonic() + _AGAIN, str(error)
                    raise
            return self._index

    def _open(self, loop: asyncio.AbstractEventLoop) -> VectorIndex:
        """Open the place; that it cannot be is no fault of who asks."""
        index = None
        try:
            index = open_index(self.place, spread=self._spread, loop=loop if self._isolated else None)
            for name in index.names():
                with suppress(UserError, OSError):  # a damaged one leaves the others as good as ever
                    self.sizes[name] = index.open(name).count()
        except UserError as error:
            if index is not None:
                index.close()
            raise IndexUnavailable(str(error)) from error
        return index
