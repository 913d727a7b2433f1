"""An embedded index in a process of its own, for the event loop of a service.

    this process                                                        the other one
    IsolatedCollection  --(number, name, method, arguments)-->  _serve -> EmbeddedIndex
                        <--(number, failed, result)-----------

Qdrant's engine holds Python's lock while it works. Beside an event loop every search, and every batch that is stored,
makes all requests wait and uses no second core. Here it does neither.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock
from typing import Any, Self, cast

import numpy as np

from archlab.errors import UserError
from archlab.index.embedded import EmbeddedIndex
from archlab.index.filters import Filter
from archlab.index.protocol import CollectionSpec, Hit, IndexUnavailable, Points

_THREADS = 8  # that change, count and fetch, in the other process
_GRACE = 30.0  # seconds to write what is pending
_SIZE = struct.Struct("!i")  # before every message, as `multiprocessing` frames them


class IsolatedIndex:
    """A `VectorIndex` that another process has open: started by this, replaced where it died, and ended.

    Its methods, and those of its collections, are for threads; of an event loop is `IsolatedCollection.find`.

    Args:
        folder: see `EmbeddedIndex`.
        loop: of the event loop; it must run whenever a method is called.
        patience: seconds to wait for another process that has it open, as that of a service that was killed.

    Raises:
        UserError: see `EmbeddedIndex`.
    """

    def __init__(self, folder: Path, loop: asyncio.AbstractEventLoop, *, patience: float = 5.0) -> None:
        self.folder, self._loop, self._patience = folder, loop, patience
        self._starting = Lock()
        self._closed = False
        self._known: dict[str, IsolatedCollection] = {}
        self._start()

    @property
    def pid(self) -> int:
        """The other process."""
        return self._process.pid

    def create(self, name: str, spec: CollectionSpec) -> IsolatedCollection:
        self.call(name, "create", spec)
        return self.open(name)

    def open(self, name: str) -> IsolatedCollection:
        if (found := self.opened(name)) is None:
            found = self._known[name] = IsolatedCollection(name, self.call(name, "open"), self)
        return found

    def opened(self, name: str) -> IsolatedCollection | None:
        return None if self._closed or self._link.lost else self._known.get(name)

    def names(self) -> list[str]:
        found: list[str] = self.call("", "names")
        return found

    def drop(self, name: str) -> None:
        self._known.pop(name, None)
        self.call(name, "drop")

    def close(self) -> None:
        with self._starting:
            self._closed = True
            with suppress(IndexUnavailable):  # it has ended before
                self._wait_for(self._link.ask("", "close", ()))
            self._let_go()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, name: str, method: str, *arguments: Any) -> Any:
        """Ask for a method of a collection, or of the index, and wait; a process that has ended is replaced first.

        Raises:
            IndexUnavailable: the process ended meanwhile, or the index was closed.
            Exception: what the method raised.
        """
        with self._starting:
            if self._closed:
                raise IndexUnavailable(f"index {self.folder}: was closed; open it again")
            if self._link.lost:
                self._process.wait()
                self._start()
        return self._wait_for(self._link.ask(name, method, arguments))

    async def ask(self, name: str, method: str, *arguments: Any) -> Any:
        """As `call`, for a coroutine of the event loop; a process that has ended is not replaced."""
        return await self._link.ask(name, method, arguments)

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", __name__, str(theirs.fileno()), str(self.folder), str(self._patience)]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
        self._known.clear()
        _, self._link = self._wait_for(self._loop.create_connection(_Link, sock=ours))
        try:
            self._wait_for(self._link.ask("", "begin", ()))
        except BaseException:
            self._let_go()
            raise

    def _let_go(self) -> None:
        self._loop.call_soon_threadsafe(self._link.end)  # which is what the process waits for
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _wait_for(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


class IsolatedCollection:
    """A `Collection` of an `IsolatedIndex`."""

    holds_lock = False

    def __init__(self, name: str, spec: CollectionSpec, index: IsolatedIndex) -> None:
        self.name, self.spec, self._index = name, spec, index

    def upsert(self, points: Points) -> None:
        self._index.call(self.name, "upsert", points)

    def delete(self, ids: Sequence[str]) -> int:
        return int(self._index.call(self.name, "delete", ids))

    def delete_where(self, where: Filter) -> int:
        return int(self._index.call(self.name, "delete_where", where))

    def count(self, where: Filter | None = None) -> int:
        return int(self._index.call(self.name, "count", where))

    def search(self, vector: np.ndarray, k: int = 10, where: Filter | None = None) -> list[Hit]:
        return _hits(self._index.call(self.name, "search", vector, k, where))

    async def find(self, vector: np.ndarray, k: int = 10, where: Filter | None = None) -> list[Hit]:
        """As `search`, for a coroutine of the event loop.

        Raises:
            IndexUnavailable: the process has ended; `VectorIndex.open` replaces it.
        """
        return _hits(await self._index.ask(self.name, "search", vector, k, where))

    def fetch(self, ids: Sequence[str]) -> Points:
        found: Points = self._index.call(self.name, "fetch", ids)
        return found

    def scan(self, size: int = 256, *, vectors: bool = True) -> Iterator[Points]:
        number = self._index.call(self.name, "scan", size, vectors)
        while (points := self._index.call(self.name, "go on", number)) is not None:
            yield points

    def unoptimized(self) -> int:
        return int(self._index.call(self.name, "unoptimized"))

    def optimize(self) -> None:
        self._index.call(self.name, "optimize")


def _hits(rows: list[tuple[Any, ...]]) -> list[Hit]:
    return [Hit(*row) for row in rows]


class _Link(asyncio.Protocol):
    """Questions and answers by their numbers, any number under way.

    Attributes:
        lost: whether the other process has ended.
    """

    def __init__(self) -> None:
        self.lost = False
        self._numbers, self._answers = count(), dict[int, asyncio.Future[Any]]()
        self._received = bytearray()

    async def ask(self, name: str, method: str, arguments: Sequence[Any]) -> Any:
        if self.lost:
            raise self._end()
        number, answer = next(self._numbers), asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        message = pickle.dumps((number, name, method, arguments), pickle.HIGHEST_PROTOCOL)
        self._transport.write(_SIZE.pack(len(message)) + message)
        return await answer

    def end(self) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # that of uvloop does not inherit from it

    def data_received(self, data: bytes) -> None:
        self._received += data
        begin = 0
        while len(self._received) >= (first := begin + _SIZE.size):
            last = first + _SIZE.unpack_from(self._received, begin)[0]
            if len(self._received) < last:
                break
            number, failed, result = pickle.loads(self._received[first:last])
            answer, begin = self._answers.pop(number), last
            if not answer.done():  # nobody waits for it any more
                (answer.set_exception if failed else answer.set_result)(result)
        del self._received[:begin]

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(self._end())
        self._answers.clear()

    @staticmethod
    def _end() -> IndexUnavailable:
        return IndexUnavailable("the process of the index has ended; ask again")


class _Answering:
    """In the other process: what is asked of its index.

    Args:
        index: open.
    """

    def __init__(self, index: EmbeddedIndex) -> None:
        self._index = index
        self._numbers, self._scans = count(), dict[int, Iterator[Points]]()
        self._own: dict[str, Callable[..., Any]] = {
            "create": lambda name, spec: index.create(name, spec).spec,
            "open": lambda name: index.open(name).spec,
            "names": lambda name: index.names(),
            "drop": index.drop,
            "close": lambda name: index.close(),
            "search": self._search,
            "scan": self._scan,
            "go on": self._go_on,
        }

    def answer(self, name: str, method: str, arguments: Sequence[Any]) -> Any:
        if method in self._own:
            return self._own[method](name, *arguments)
        return getattr(self._index.open(name), method)(*arguments)

    def _search(self, name: str, *arguments: Any) -> list[tuple[Any, ...]]:
        found = self._index.opened(name) or self._index.open(name)
        return [(hit.id, hit.score, hit.metadata) for hit in found.search(*arguments)]  # which pickle writes faster

    def _scan(self, name: str, size: int, vectors: bool) -> int:
        number = next(self._numbers)
        self._scans[number] = self._index.open(name).scan(size, vectors=vectors)
        return number

    def _go_on(self, name: str, number: int) -> Points | None:
        points = next(self._scans[number], None)
        if points is None:
            del self._scans[number]
        return points


def _serve(connection: Connection, folder: Path, patience: float) -> None:
    sending, threads = Lock(), ThreadPoolExecutor(_THREADS)

    def send(number: int, failed: bool, result: Any) -> None:
        message = pickle.dumps((number, failed, result), pickle.HIGHEST_PROTOCOL)
        with sending:
            connection.send_bytes(message)

    begin, *_ = pickle.loads(connection.recv_bytes())
    try:
        answering = _Answering(EmbeddedIndex(folder, patience=patience))
    except (UserError, OSError) as error:
        send(begin, True, error)
        return
    send(begin, False, None)

    def answer(number: int, *question: Any) -> None:
        try:
            send(number, False, answering.answer(*question))
        except (UserError, OSError) as error:
            send(number, True, error)
        except Exception:
            send(number, True, RuntimeError(f"in the process of the index:\n{traceback.format_exc()}"))

    while True:
        number, name, method, arguments = pickle.loads(connection.recv_bytes())
        if method == "search":  # which would take longer in another thread
            answer(number, name, method, arguments)
        else:
            threads.submit(answer, number, name, method, arguments)


def main() -> None:
    """The arguments: file descriptor of the connection, folder, and seconds to wait for it."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to all processes of a service, they are for the first one
        signal.signal(number, lambda *_: None)  # not ignored, as processes that this one starts would ignore them too
    with suppress(EOFError, OSError):  # who asked has closed the index, or was killed
        _serve(Connection(int(sys.argv[1])), Path(sys.argv[2]), float(sys.argv[3]))
    os._exit(0)  # whatever a thread still does: nobody waits for it, and all that was acknowledged is written


if __name__ == "__main__":
    main()
