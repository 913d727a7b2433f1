"""An embedded index in a process of its own, for the event loop of a service.

    this process                                                        the other one
    IsolatedCollection  --number, (key, method, arguments)-->  _serve -> EmbeddedIndex
                        <--number, (failed, result)----------

Qdrant's engine holds Python's lock while it works. Beside an event loop every search, and every batch that is stored,
makes all requests wait and uses no second core. Here it does neither.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import struct
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

from archlab.children import start_answering, wait_or_kill
from archlab.errors import UserError
from archlab.index.embedded import EmbeddedIndex
from archlab.index.filters import Filter
from archlab.index.protocol import Collection, CollectionSpec, Hit, IndexUnavailable, Points, UnknownCollection

_THREADS = 8  # that change, count and fetch, in the other process
_GRACE = 30.0  # seconds to write what is pending
_AT_ONCE = 8  # searches that the other process is asked; the next ones wait here, where one may still be given up
_SIZE = struct.Struct("!i")  # before every message, as `multiprocessing` frames them
_NUMBER = struct.Struct("!Q")  # at the beginning of every message: of the question
_DEAD = "the process of the index has ended; ask again"


class IsolatedIndex:
    """A `VectorIndex` that another process has open: started by this, replaced where it died, and ended.

    Its methods, and those of its collections, are for threads; of an event loop is `IsolatedCollection.find`.

    Args:
        folder: see `EmbeddedIndex`.
        loop: of the event loop; it must run whenever a method is called.

    Raises:
        UserError: see `EmbeddedIndex`.
    """

    def __init__(self, folder: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.folder, self._loop = folder, loop
        self._starting, self._naming = Lock(), Lock()
        self._searches = asyncio.Semaphore(_AT_ONCE)
        self._closed = False
        self._known: dict[str, IsolatedCollection] = {}
        self._start()

    @property
    def pid(self) -> int:
        """The other process."""
        return self._process.pid

    def create(self, name: str, spec: CollectionSpec) -> IsolatedCollection:
        with self._naming:
            return self._know(name, self.call(name, "create", spec))

    def open(self, name: str) -> IsolatedCollection:
        with self._naming:
            return self.opened(name) or self._know(name, self.call(name, "open"))

    def opened(self, name: str) -> IsolatedCollection | None:
        return None if self._closed or self._link.lost else self._known.get(name)

    def names(self) -> list[str]:
        found: list[str] = self.call("", "names")
        return found

    def drop(self, name: str) -> None:
        with self._naming:
            self.call(name, "drop")
            self._known.pop(name, None)

    def close(self) -> None:
        with self._starting:
            self._closed = True
            with suppress(IndexUnavailable):  # it has ended before
                self._wait_for(self._link.ask(_question("", "close")))
            self._let_go()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, key: str, method: str, *arguments: Any) -> Any:
        """Ask for a method and wait; a process that has ended is replaced first.

        Args:
            key: of an open collection; where it is the index that is asked, the name of a collection.

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
        return _answer(self._wait_for(self._link.ask(_question(key, method, *arguments))))

    async def search(self, key: str, *arguments: Any) -> Any:
        """Ask for a search in a coroutine of the event loop; a process that has ended is not replaced."""
        await self._searches.acquire()
        answer = asyncio.ensure_future(self._link.ask(_question(key, "search", *arguments)))
        answer.add_done_callback(lambda _: self._searches.release())  # not before: the other process has it to do
        return _answer(await asyncio.shield(answer))

    def _know(self, name: str, opened: tuple[str, CollectionSpec]) -> IsolatedCollection:
        found = self._known[name] = IsolatedCollection(name, *opened, self)
        return found

    def _start(self) -> None:
        socket, self._process = start_answering(__name__, str(self.folder))
        self._known.clear()
        _, self._link = self._wait_for(self._loop.create_connection(_Link, sock=socket))
        try:
            _answer(self._wait_for(self._link.ask(_question("", "begin"))))
        except BaseException:
            self._let_go()
            raise

    def _let_go(self) -> None:
        self._loop.call_soon_threadsafe(self._link.end)  # which is what the process waits for
        wait_or_kill(self._process, _GRACE)

    def _wait_for(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


class IsolatedCollection:
    """A `Collection` of an `IsolatedIndex`."""

    holds_lock = False

    def __init__(self, name: str, key: str, spec: CollectionSpec, index: IsolatedIndex) -> None:
        self.name, self.spec, self._key, self._index = name, spec, key, index

    def upsert(self, points: Points) -> None:
        self._index.call(self._key, "upsert", points)

    def delete(self, ids: Sequence[str]) -> int:
        return int(self._index.call(self._key, "delete", ids))

    def delete_where(self, where: Filter) -> int:
        return int(self._index.call(self._key, "delete_where", where))

    def count(self, where: Filter | None = None) -> int:
        return int(self._index.call(self._key, "count", where))

    def search(self, vector: np.ndarray, k: int = 10, where: Filter | None = None) -> list[Hit]:
        return _hits(self._index.call(self._key, "search", vector, k, where))

    async def find(self, vector: np.ndarray, k: int = 10, where: Filter | None = None) -> list[Hit]:
        """As `search`, for a coroutine of the event loop.

        Raises:
            IndexUnavailable: the process has ended; `VectorIndex.open` replaces it.
        """
        return _hits(await self._index.search(self._key, vector, k, where))

    def fetch(self, ids: Sequence[str]) -> Points:
        found: Points = self._index.call(self._key, "fetch", ids)
        return found

    def scan(self, size: int = 256, *, vectors: bool = True) -> Iterator[Points]:
        number = self._index.call(self._key, "scan", size, vectors)
        while (points := self._index.call(self._key, "go on", number)) is not None:
            yield points

    def unoptimized(self) -> int:
        return int(self._index.call(self._key, "unoptimized"))

    def optimize(self) -> None:
        self._index.call(self._key, "optimize")


def _hits(rows: list[tuple[Any, ...]]) -> list[Hit]:
    return [Hit(*row) for row in rows]


class _Link(asyncio.Protocol):
    """Questions and answers by their numbers, any number under way; pickled and read by who asks.

    Attributes:
        lost: whether the other process has ended.
    """

    def __init__(self) -> None:
        self.lost = False
        self._numbers, self._answers = count(), dict[int, asyncio.Future[bytes]]()
        self._received = bytearray()

    async def ask(self, question: bytes) -> bytes:
        if self.lost:
            raise IndexUnavailable(_DEAD)
        number, answer = next(self._numbers), asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        self._transport.write(_SIZE.pack(_NUMBER.size + len(question)) + _NUMBER.pack(number) + question)
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
            answer = self._answers.pop(_NUMBER.unpack_from(self._received, first)[0])
            if not answer.done():  # else nobody waits for it any more
                answer.set_result(bytes(self._received[first + _NUMBER.size : last]))
            begin = last
        del self._received[:begin]

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(IndexUnavailable(_DEAD))
        self._answers.clear()


def _question(key: str, method: str, *arguments: Any) -> bytes:
    return pickle.dumps((key, method, arguments), pickle.HIGHEST_PROTOCOL)


def _answer(message: bytes) -> Any:
    failed, result = pickle.loads(message)
    if failed:
        raise result
    return result


class _Answering:
    """In the other process: what is asked of its index.

    Args:
        index: open.
    """

    def __init__(self, index: EmbeddedIndex) -> None:
        self._index = index
        self._numbers, self._scans = count(), dict[int, Iterator[Points]]()
        self._keys: dict[str, Collection] = {}
        self._own: dict[str, Callable[..., Any]] = {
            "create": lambda name, spec: self._know(index.create(name, spec)),
            "open": lambda name: self._know(index.open(name)),
            "names": lambda _: index.names(),
            "drop": self._drop,
            "close": lambda _: index.close(),
            "search": self._search,
            "scan": self._scan,
            "go on": self._go_on,
        }

    def answer(self, key: str, method: str, arguments: Sequence[Any]) -> Any:
        if method in self._own:
            return self._own[method](key, *arguments)
        return getattr(self._at(key), method)(*arguments)

    def _know(self, collection: Collection) -> tuple[str, CollectionSpec]:
        key = f"{os.getpid()}-{next(self._numbers)}"  # not the name: one that was dropped is not the next of its name
        self._keys[key] = collection
        return key, collection.spec

    def _at(self, key: str) -> Collection:
        if key in self._keys:
            return self._keys[key]
        if key.startswith(f"{os.getpid()}-"):
            raise UnknownCollection("collection: was closed or dropped; open it again")
        raise IndexUnavailable(_DEAD)  # it was opened by a process before this one

    def _drop(self, name: str) -> None:
        self._index.drop(name)
        self._keys = {key: one for key, one in self._keys.items() if one.name != name}

    def _search(self, key: str, *arguments: Any) -> list[tuple[Any, ...]]:
        found = self._at(key).search(*arguments)
        return [(hit.id, hit.score, hit.metadata) for hit in found]  # which pickle writes faster

    def _scan(self, key: str, size: int, vectors: bool) -> int:
        number = next(self._numbers)
        self._scans[number] = self._at(key).scan(size, vectors=vectors)
        return number

    def _go_on(self, key: str, number: int) -> Points | None:
        self._at(key)  # else the number may be that of another scan: its own was of a process before this one
        points = next(self._scans[number], None)
        if points is None:
            del self._scans[number]
        return points


def _serve(connection: Connection, folder: Path) -> None:
    sending, threads = Lock(), ThreadPoolExecutor(_THREADS)

    def send(number: bytes, failed: bool, result: Any) -> None:
        message = number + pickle.dumps((failed, result), pickle.HIGHEST_PROTOCOL)
        with sending:
            connection.send_bytes(message)

    def receive() -> tuple[bytes, Any]:
        message = connection.recv_bytes()
        return message[: _NUMBER.size], pickle.loads(memoryview(message)[_NUMBER.size :])

    begin, _ = receive()
    try:
        answering = _Answering(EmbeddedIndex(folder))
    except (UserError, OSError) as error:
        send(begin, True, error)
        return
    send(begin, False, None)

    def answer(number: bytes, question: tuple[str, str, Sequence[Any]]) -> None:
        try:
            send(number, False, answering.answer(*question))
        except (UserError, OSError) as error:
            send(number, True, error)
        except BaseException:  # whoever asked waits
            send(number, True, RuntimeError(f"in the process of the index:\n{traceback.format_exc()}"))

    while True:
        number, question = receive()
        if question[1] == "search":  # which would take longer in another thread
            answer(number, question)
        else:
            threads.submit(answer, number, question)


def main() -> None:
    """The arguments: file descriptor of the connection, and folder."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to all processes of a service, they are for the first one
        signal.signal(number, lambda *_: None)  # not ignored, as processes that this one starts would ignore them too
    with suppress(EOFError, OSError):  # who asked has closed the index, or was killed
        _serve(Connection(int(sys.argv[1])), Path(sys.argv[2]))
    os._exit(0)  # whatever a thread still does: nobody waits for it, and all that was acknowledged is written


if __name__ == "__main__":
    main()
