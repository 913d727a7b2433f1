"""An engine in a process of its own does what it does in this one, and its process ends and begins when it should."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from tests.serve.holding import run, settle
from tests.serve.live import serving

from archlab.errors import UserError
from archlab.machine import computing_threads
from archlab.serve import engine_process
from archlab.serve.computing import Computer, EngineThread
from archlab.serve.engine import Operation
from archlab.serve.engine_process import EngineProcess, Stream, open_isolated
from archlab.serve.errors import EngineFailed
from archlab.serve.model import Model, ModelLimits
from archlab.serve.vision_engine import VisionEngine

QUERIES = ["what colour is it?", "", "a ring?"]
CANDIDATES = [["red", "blue"], ["yes", "no", "two"], ["a circle"]]
Opened = Callable[[str], VisionEngine]


@pytest.fixture
def asked(talkative_run: Callable[[str], Path]) -> Callable[..., None]:
    """`asked(arm, main)`: run a coroutine function of an `EngineProcess` of that arm."""

    def go(arm: str, main: Callable[[EngineProcess], Coroutine[Any, Any, None]]) -> None:
        async def whole() -> None:
            process = await asyncio.to_thread(open_isolated, talkative_run(arm), "torch")
            try:
                await main(process)
            finally:
                await process.close()

        run(whole)

    return go


async def pieces(computer: Computer, images: list[np.ndarray]) -> list[str]:
    """What streams say, advanced side by side until each has ended."""
    streams = await computer.ask("begin", [images, QUERIES])
    texts, running = [""] * len(streams), list(range(len(streams)))
    while running:
        found = await computer.ask("advance", [[streams[row] for row in running]])
        said = dict(zip(running, found, strict=True))
        texts = [text + (said.get(row) or "") for row, text in enumerate(texts)]
        running = [row for row in running if said[row] is not None]
    return texts


@pytest.mark.parametrize("arm", ["token", "vljepa"])
def test_it_answers_as_the_engine_does_in_this_process(
    asked: Callable[..., None], engine: Opened, pictures: list[np.ndarray], arm: str
) -> None:
    ours, images = EngineThread(engine(arm)), pictures[:3]

    async def main(theirs: EngineProcess) -> None:
        assert theirs.about == ours.about
        assert set(theirs.operations) == set(ours.operations)
        operations: dict[Operation, list[Any]] = {
            "embed_texts": [QUERIES],
            "embed_images": [images, QUERIES],
            "choose": [images, QUERIES, CANDIDATES],
            "flops": [images, QUERIES, CANDIDATES],
        }
        for name, columns in operations.items():
            for mine, other in zip(await ours.ask(name, columns), await theirs.ask(name, columns), strict=True):
                np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)
        spoken = [await one.ask("speak", [images, QUERIES]) for one in (ours, theirs)]
        assert [one.text for one in spoken[0]] == [one.text for one in spoken[1]]
        (mine,), (other,) = [await one.ask("attention", [images[:1], QUERIES[:1]]) for one in (ours, theirs)]
        assert other.tokens == mine.tokens
        np.testing.assert_allclose(other.maps, mine.maps, atol=1e-6)
        assert await pieces(theirs, images) == await pieces(ours, images)
        await ours.close()

    asked(arm, main)


def test_streams_that_nobody_asks_for_any_more_are_let_go(
    asked: Callable[..., None], pictures: list[np.ndarray]
) -> None:
    async def main(process: EngineProcess) -> None:
        first, second = await process.ask("begin", [pictures[:2], QUERIES[:2]])
        number = first.number
        del first
        gc.collect()
        assert process._left == [number]
        await process.probe()
        assert process._left == []
        assert await process.ask("advance", [[second]])  # which goes on
        with pytest.raises(RuntimeError, match="KeyError"):
            await process.ask("advance", [[Stream(number)]])

    asked("token", main)


def test_a_stream_of_a_process_that_died_is_none_of_the_next_one(
    asked: Callable[..., None], pictures: list[np.ndarray]
) -> None:
    async def main(process: EngineProcess) -> None:
        (old,) = await process.ask("begin", [pictures[:1], QUERIES[:1]])
        process._process.kill()
        process._process.wait()
        await process.probe()
        (new,) = await process.ask("begin", [pictures[1:2], QUERIES[1:2]])
        with pytest.raises(RuntimeError, match="KeyError"):
            await process.ask("advance", [[old]])
        del old
        gc.collect()
        assert await process.ask("advance", [[new]])

    asked("token", main)


def test_what_cannot_be_opened_is_refused_and_a_fault_comes_with_its_traceback(
    asked: Callable[..., None], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=str(tmp_path)):
        EngineProcess(tmp_path, "auto")

    async def main(process: EngineProcess) -> None:
        with pytest.raises(RuntimeError, match=r"(?s)in the process of the engine:.*Traceback.*Error"):
            await process.ask("embed_texts", [3])
        assert len(await process.ask("embed_texts", [["a red circle"]])) == 1

    asked("token", main)


def test_who_leaves_amid_a_call_leaves_no_answer_to_the_next(
    asked: Callable[..., None], pictures: list[np.ndarray]
) -> None:
    async def main(process: EngineProcess) -> None:
        leaving = asyncio.create_task(process.ask("speak", [pictures[:3], QUERIES]))
        while process._streams is None:
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        leaving.cancel()
        (vector,) = await process.ask("embed_texts", [["a red circle"]])
        assert vector.shape == (process.about.width,)

    asked("vljepa", main)


def test_a_process_that_dies_is_a_failure_and_is_replaced(asked: Callable[..., None]) -> None:
    async def main(process: EngineProcess) -> None:
        model = Model("m", process, ModelLimits(probe_every=0.01, cached_texts=0))
        before = await model.embed_texts(["a red circle"])
        os.kill(process._process.pid, signal.SIGKILL)
        with pytest.raises(EngineFailed, match="has failed"):
            await model.embed_texts(["a red circle"])
        while not model.ready:
            await asyncio.sleep(0.01)
        np.testing.assert_array_equal(await model.embed_texts(["a red circle"]), before)

    asked("vljepa", main)


def test_what_is_asked_while_it_is_replaced_is_answered_by_the_next_one(
    asked: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def held(descriptor: int) -> Connection:
        begun.set()
        assert go_on.wait(60)
        return Connection(descriptor)

    async def main(process: EngineProcess) -> None:
        before = await process.ask("embed_texts", [["a red circle"]])
        process._process.kill()
        process._process.wait()
        monkeypatch.setattr(engine_process, "Connection", held)
        probing = asyncio.create_task(process.probe())
        await asyncio.to_thread(begun.wait, 60)
        asking = asyncio.create_task(process.ask("embed_texts", [["a red circle"]]))
        await settle()
        go_on.set()
        np.testing.assert_array_equal(await asking, before)
        await probing

    asked("vljepa", main)


def test_a_process_that_cannot_be_replaced_is_a_failure_until_it_can(
    talkative_run: Callable[[str], Path], tmp_path: Path
) -> None:
    async def main() -> None:
        folder = shutil.copytree(talkative_run("token"), tmp_path / "run")
        process = await asyncio.to_thread(EngineProcess, folder, "torch")
        model = Model("m", process, ModelLimits(probe_every=0.01, fatal=3))
        folder.rename(tmp_path / "away")
        process._process.kill()
        with pytest.raises(EngineFailed):
            await model.embed_texts(["a red circle"])
        while model.alive:
            await asyncio.sleep(0.01)
        (tmp_path / "away").rename(folder)
        while not model.ready:
            await asyncio.sleep(0.01)
        await model.close()

    run(main)


def test_a_process_is_not_replaced_by_one_of_other_weights(
    talkative_run: Callable[[str], Path], tmp_path: Path
) -> None:
    """Vectors of the ones, in caches and collections, mean nothing to the others."""

    async def main() -> None:
        folder = shutil.copytree(talkative_run("token"), tmp_path / "run")
        process = await asyncio.to_thread(EngineProcess, folder, "torch")
        shutil.copytree(talkative_run("vljepa"), folder, dirs_exist_ok=True)
        process._process.kill()
        process._process.wait()
        for _ in range(2):
            with pytest.raises(RuntimeError, match="holds other weights than before"):
                await process.probe()
        shutil.copytree(talkative_run("token"), folder, dirs_exist_ok=True)
        await process.probe()
        await process.close()

    run(main)


def test_the_process_ends_with_its_model_and_is_deaf_to_the_terminal(talkative_run: Callable[[str], Path]) -> None:
    others = psutil.Process().children()
    with serving(models=(f"a={talkative_run('vljepa')}",), backend="torch", engines="process") as live:
        (child,) = (one for one in psutil.Process().children() if one not in others)
        child.send_signal(signal.SIGINT)
        with live.client() as client:
            body = {"input": ["a red circle"]}
            assert len(client.post("/v1/embeddings", json=body).json()["data"]) == 1
            assert client.delete("/v1/models/a").status_code < 300
        child.wait(60)


def test_the_process_ends_when_whoever_asks_is_killed(talkative_run: Callable[[str], Path]) -> None:
    program = (
        "import sys, time; from pathlib import Path; from archlab.serve.engine_process import EngineProcess; "
        "engine = EngineProcess(Path(sys.argv[1]), 'torch'); print(engine._process.pid, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", program, str(talkative_run("token"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    psutil.wait_procs([child], timeout=60)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_threads_are_left_to_what_answers_here_and_in_the_process(talkative_run: Callable[[str], Path]) -> None:
    """PyTorch's own would take all cores, and wait awake on them between its operations."""
    program = (
        "import torch; from archlab.serve import engine_process as process; "
        "process._serve = lambda _: print(torch.get_num_threads()); process.main()"
    )
    with socket.socketpair()[0] as end:
        command = [sys.executable, "-c", program, str(end.fileno())]
        told = subprocess.run(command, pass_fds=[end.fileno()], capture_output=True, text=True, check=True)
    assert int(told.stdout) == computing_threads()
    before = torch.get_num_threads()
    torch.set_num_threads(computing_threads() + 1)
    try:
        with serving(models=(f"a={talkative_run('vljepa')}",), backend="torch") as live:
            computer = live.service.models.get("a")._computer
            assert isinstance(computer, EngineThread)
            assert live.run(computer._run(torch.get_num_threads)) == computing_threads()
    finally:
        torch.set_num_threads(before)
