"""An engine in a process of its own: the event loop then shares Python's lock with nothing that computes.

    this process                                      the other one
    Model -> EngineProcess.ask  --call-->  _serve -> Engine.operations
                                <-results-

Two threads of one process wake each other in vain again and again, the event loop and the one that feeds a model; a
service with its engine in a process of its own answers more searches (`archlab bench serve`).
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
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from archlab.children import Children, start_answering, wait_or_kill
from archlab.errors import UserError
from archlab.serve.engine import About, Engine, Operation
from archlab.serve.opening import Choice, limit_threads, open_engine, prepare, settle_memory

_GRACE = 10.0  # seconds to end in
_BEGIN: tuple[Operation, ...] = ("begin", "complete")  # which give iterators, for `advance`
_SIZE = struct.Struct("!i")


def open_isolated(folder: Path, backend: Choice = "auto", children: Children | None = None) -> EngineProcess:
    """As `opening.open_engine`, in a process of its own; what has to be exported first is exported by this one."""
    return EngineProcess(folder, prepare(folder, backend, children))


@dataclass(frozen=True, eq=False)
class Stream:
    """An iterator over pieces of text that the other process keeps, under a number, until this is let go."""

    number: int


class EngineProcess:
    """A `computing.Computer` of another process, which it starts, replaces where it died, and ends.

    Args:
        folder, backend: see `opening.open_engine`.

    Raises:
        UserError: the folder holds nothing that can be served, or not by this backend.
        RuntimeError: the process cannot be started.
    """

    about: About
    operations: frozenset[Operation]

    def __init__(self, folder: Path, backend: Choice) -> None:
        self._opened = folder.resolve(), backend
        self._left: list[int] = []  # streams that nobody asks for any more
        self._turn = asyncio.Lock()
        self._start()
        self._digest = self.about.digest

    @property
    def pid(self) -> int:
        """See `Computer`."""
        return self._process.pid

    async def ask(self, operation: Operation, columns: Sequence[Any]) -> list[Any]:
        """See `Computer`."""
        if operation == "advance":
            columns = [[stream.number for stream in columns[0]]]
        found: list[Any] = await self._call(operation, columns)
        if operation in _BEGIN:
            found = [Stream(number) for number in found]
            for stream in found:
                weakref.finalize(stream, self._left.append, stream.number).atexit = False
        return found

    async def probe(self) -> None:
        """See `Computer`; a process that has ended is replaced."""
        async with self._turn:  # what is asked meanwhile waits, as the new process has to answer `_start` first
            if self._process.poll() is not None:
                await self.close()
                try:
                    await asyncio.to_thread(self._start)
                except UserError as error:  # the folder has gone; it was no fault of who asked
                    raise RuntimeError("the process of the engine could not be replaced") from error
                if self.about.digest != self._digest:  # whose vectors others keep
                    await self.close()
                    raise RuntimeError(f"{self._opened[0]} holds other weights than before; load it as another model")
        await self._call("probe", ())

    async def close(self) -> None:
        """Let the process end, and wait for it."""
        if self._streams is not None:
            self._streams[1].close()
        await asyncio.to_thread(self._end)

    def _start(self) -> None:
        self._socket, self._process = start_answering(__name__)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._end = weakref.finalize(self, _end, self._socket, self._process)
        self._left.clear()
        try:
            with Connection(os.dup(self._socket.fileno())) as connection:
                connection.send(("open", self._opened, ()))
                self.about, names = _result(*connection.recv())
        except (EOFError, OSError) as error:
            raise self._ended() from error
        self.operations = frozenset(names)

    async def _call(self, name: str, arguments: Sequence[Any]) -> Any:
        # Whoever leaves amid a call must not leave its answer to the next one.
        return _result(*await asyncio.shield(self._exchange(name, arguments)))

    async def _exchange(self, name: str, arguments: Sequence[Any]) -> tuple[str, Any]:
        async with self._turn:
            if self._streams is None:
                self._streams = await asyncio.open_connection(sock=self._socket)
            reader, writer = self._streams
            left = [self._left.pop() for _ in range(len(self._left))]
            message = pickle.dumps((name, arguments, left), pickle.HIGHEST_PROTOCOL)
            try:
                writer.write(_SIZE.pack(len(message)) + message)  # as `multiprocessing` frames what it sends
                (size,) = _SIZE.unpack(await reader.readexactly(_SIZE.size))
                outcome: tuple[str, Any] = pickle.loads(await reader.readexactly(size))
            except (EOFError, OSError) as error:
                raise await asyncio.to_thread(self._ended) from error
        return outcome

    def _ended(self) -> RuntimeError:
        wait_or_kill(self._process, _GRACE)
        return RuntimeError(f"the process of the engine ended with {self._process.returncode}")


def _result(outcome: str, result: Any) -> Any:
    if outcome == "refused":
        raise UserError(result)
    if outcome == "failed":
        raise RuntimeError(f"in the process of the engine:\n{result}")
    return result


def _end(connection: socket.socket, process: subprocess.Popen[bytes]) -> None:
    connection.close()  # which is what the process waits for
    wait_or_kill(process, _GRACE)


class _Streams:
    """Operations of an engine whose iterators stay here, under numbers."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._running = engine, dict[int, Iterator[str]]()
        self._numbers = count(os.getpid() << 32)  # none is that of a stream of the process before

    def begin(self, operation: Operation, *columns: Any) -> list[int]:
        numbers = []
        for iterator in self._engine.operations[operation](*columns):
            numbers.append(next(self._numbers))
            self._running[numbers[-1]] = iterator
        return numbers

    def advance(self, numbers: Sequence[int]) -> list[str | None]:
        return list(self._engine.operations["advance"]([self._running[number] for number in numbers]))

    def forget(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self._running.pop(number, None)


def _serve(connection: Connection) -> None:
    """In the other process: open an engine, then answer one call after the other until the connection is closed."""
    engine: Engine | None = None

    def opened(folder: Path, backend: Choice) -> tuple[About, list[Operation]]:
        nonlocal engine
        engine = open_engine(folder, backend)
        return engine.about, list(engine.operations)

    _, arguments, _ = connection.recv()
    connection.send(_outcome(opened, arguments))
    if engine is None:
        return
    settle_memory()
    streams = _Streams(engine)
    calls: dict[str, Callable[..., Any]] = {"probe": engine.probe}
    calls |= {str(name): call for name, call in engine.operations.items()}
    calls |= {name: partial(streams.begin, name) for name in _BEGIN if name in calls}
    if "advance" in calls:
        calls["advance"] = streams.advance
    while True:
        name, arguments, left = connection.recv()
        streams.forget(left)
        connection.send(_outcome(calls[name], arguments))


def _outcome(call: Callable[..., Any], arguments: Sequence[Any]) -> tuple[str, Any]:
    try:
        result = call(*arguments)
        return "done", None if result is None else list(result)
    except UserError as error:
        return "refused", str(error)
    except Exception:
        return "failed", traceback.format_exc()


def main() -> None:
    """Serve the connection whose file descriptor is the argument."""
    limit_threads()
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to all processes of a service, they are for the first one
        signal.signal(number, signal.SIG_IGN)
    with suppress(EOFError, OSError):  # who asked has gone
        _serve(Connection(int(sys.argv[1])))


if __name__ == "__main__":
    main()
