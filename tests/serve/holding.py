"""Tests on a real event loop and a real thread, which a gate holds: nothing is timed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from archlab.serve.computing import EngineThread
from archlab.serve.engine_process import EngineProcess
from archlab.serve.model import Model
from archlab.serve.vision_engine import VisionEngine


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test's coroutine; a hang is an error and not a stuck suite."""
    asyncio.run(asyncio.wait_for(main(), 120))


async def settle() -> None:
    """Let everything happen that needs no thread."""
    for _ in range(20):
        await asyncio.sleep(0)


def engine_of(model: Model) -> Any:
    """The engine of a model that computes in a thread of this process."""
    assert isinstance(model._computer, EngineThread)
    return model._computer.engine


@contextmanager
def broken(model: Model) -> Iterator[None]:
    """An engine that fails at whatever it is asked, until the end of the block."""
    with pytest.MonkeyPatch.context() as patch:
        if isinstance(model._computer, EngineProcess):
            patch.setattr("sys.executable", "/bin/false")  # which is no process to take its place
            model._computer._process.kill()
            model._computer._process.wait()
        else:
            patch.setattr(engine_of(model), "_answerer", None)
        yield


class Gate:
    """Holds the operation of an engine in its thread until it is opened."""

    def __init__(self, engine: VisionEngine, operation: str) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()
        self.calls = 0
        operations: Any = engine.operations
        plain = operations[operation]

        def held(*columns: Any) -> Any:
            self.calls += 1
            self.entered.set()
            assert self.opened.wait(120)
            return plain(*columns)

        operations[operation] = held

    async def occupied(self) -> None:
        """Wait until the thread stands at the gate."""
        await asyncio.to_thread(self.entered.wait, 120)


class EndlessExport:
    """Programs of this process's Python, so also the exporter, run without end; nothing was exported before."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._pid, program = folder / "pid", folder / "python"
        partial = folder / "pid.partial"
        program.write_text(f"#!/bin/sh\necho $$ > {partial} && mv {partial} {self._pid}\nexec sleep 600\n")
        program.chmod(0o755)
        patch.setattr("sys.executable", str(program))
        patch.setenv("ARCHLAB_CACHE", str(folder))

    async def begun(self) -> None:
        """Wait until one runs."""
        while not self._pid.exists():
            await asyncio.sleep(0.005)

    @property
    def runs(self) -> bool:
        """Whether it still does."""
        return psutil.pid_exists(int(self._pid.read_text()))
