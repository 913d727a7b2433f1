"""Where the batches of a model are computed: in a thread of this process, or in another process (`engine_process`)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from archlab.serve.engine import About, Engine, Operation

Result = TypeVar("Result")


class Computer(Protocol):
    """An engine that coroutines of one event loop ask, one batch after the other.

    Attributes:
        about: what it is.
        operations: what it can be asked.
        pid: the process that it computes in.
    """

    @property
    def about(self) -> About: ...

    @property
    def operations(self) -> Collection[Operation]: ...

    @property
    def pid(self) -> int: ...

    async def ask(self, operation: Operation, columns: Sequence[Any]) -> list[Any]:
        """Results of an operation on columns, B values of every argument; see `engine.Engine.operations`."""
        ...

    async def probe(self) -> None:
        """Compute something small; raises where the engine is broken."""
        ...

    async def close(self) -> None:
        """Let the engine go."""
        ...


class EngineThread:
    """An engine with a thread of its own.

    Args:
        engine: used by that thread alone.
        name: of the thread.
    """

    def __init__(self, engine: Engine, name: str = "") -> None:
        self.engine, self.about = engine, engine.about
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"engine-{name}")

    @property
    def operations(self) -> Collection[Operation]:
        """See `Computer`; as the others."""
        return self.engine.operations

    @property
    def pid(self) -> int:
        return os.getpid()

    async def ask(self, operation: Operation, columns: Sequence[Any]) -> list[Any]:
        return await self._run(lambda: list(self.engine.operations[operation](*columns)))

    async def probe(self) -> None:
        await self._run(self.engine.probe)

    async def close(self) -> None:
        self._executor.shutdown()

    async def _run(self, function: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function)
