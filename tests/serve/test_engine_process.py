"""An engine in a process of its own does what it does in this one, and its process ends and begins when it should."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from tests.serve.holding import run
from tests.serve.live import serving

from archlab.errors import UserError
from archlab.serve.engine import Engine
from archlab.serve.engine_process import EngineProcess, Stream, open_isolated
from archlab.serve.errors import EngineFailed
from archlab.serve.model import Model, ModelLimits
from archlab.serve.vision_engine import VisionEngine

QUERIES = ["what colour is it?", "", "a ring?"]
CANDIDATES = [["red", "blue"], ["yes", "no", "two"], ["a circle"]]
Opened = Callable[[str], VisionEngine]


@pytest.fixture(scope="module")
def isolated(talkative_run: Callable[[str], Path]) -> Iterator[Callable[[str], Any]]:
    """`isolated(arm)`: one engine of each arm for all tests."""
    opened: dict[str, EngineProcess] = {}

    def engine(arm: str) -> EngineProcess:
        if arm not in opened:
            opened[arm] = open_isolated(talkative_run(arm), "torch")
        return opened[arm]

    yield engine
    for one in opened.values():
        one._end()


def pieces(engine: Engine, images: list[np.ndarray]) -> list[str]:
    """What streams say, advanced side by side until each has ended."""
    streams = list(engine.operations["begin"](images, QUERIES))
    texts, running = [""] * len(streams), list(range(len(streams)))
    while running:
        found = engine.operations["advance"]([streams[row] for row in running])
        said = dict(zip(running, found, strict=True))
        texts = [text + (said.get(row) or "") for row, text in enumerate(texts)]
        running = [row for row in running if said[row] is not None]
    return texts


@pytest.mark.parametrize("arm", ["token", "vljepa"])
def test_it_answers_as_the_engine_does_in_this_process(
    isolated: Callable[[str], Any], engine: Opened, pictures: list[np.ndarray], arm: str
) -> None:
    theirs, ours, images = isolated(arm), engine(arm), pictures[:3]
    assert theirs.about == ours.about
    assert set(theirs.operations) == set(ours.operations)
    for name, columns in {
        "embed_texts": (QUERIES,),
        "embed_images": (images, QUERIES),
        "choose": (images, QUERIES, CANDIDATES),
    }.items():
        for mine, other in zip(ours.operations[name](*columns), theirs.operations[name](*columns), strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)
    assert [one.text for one in theirs.operations["speak"](images, QUERIES)] == [
        one.text for one in ours.speak(images, QUERIES)
    ]
    assert theirs.operations["flops"](images, QUERIES, CANDIDATES) == ours.flops(images, QUERIES, CANDIDATES)
    (mine,), (other,) = ours.attention(images[:1], QUERIES[:1]), theirs.operations["attention"](images[:1], QUERIES[:1])
    assert other.tokens == mine.tokens
    np.testing.assert_allclose(other.maps, mine.maps, atol=1e-6)
    assert pieces(theirs, images) == pieces(ours, images)


def test_streams_that_nobody_asks_for_any_more_are_let_go(
    isolated: Callable[[str], Any], pictures: list[np.ndarray]
) -> None:
    engine = isolated("token")
    first, second = engine.operations["begin"](pictures[:2], QUERIES[:2])
    number = first.number
    engine._left.clear()
    del first
    gc.collect()
    assert engine._left == [number]
    engine.probe()
    assert engine._left == []
    assert engine.operations["advance"]([second])  # which goes on
    with pytest.raises(RuntimeError, match="KeyError"):
        engine.operations["advance"]([Stream(number)])


def test_what_the_caller_did_wrong_comes_back_as_that(talkative_run: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=str(tmp_path)):
        EngineProcess(tmp_path, "auto")
    engine = EngineProcess(talkative_run("token"), "torch")
    with pytest.raises(RuntimeError, match=r"(?s)in the process of the engine:.*Error"):
        engine.operations["embed_texts"](3)
    engine._end()


def test_a_process_that_dies_is_a_failure_and_is_replaced(talkative_run: Callable[[str], Path]) -> None:
    async def main() -> None:
        engine = open_isolated(talkative_run("vljepa"), "torch")
        model = Model("m", engine, ModelLimits(probe_every=0.01, cached_texts=0))
        before = await model.embed_texts(["a red circle"])
        os.kill(engine._process.pid, signal.SIGKILL)
        with pytest.raises(EngineFailed, match="has failed"):
            await model.embed_texts(["a red circle"])
        while not model.ready:
            await asyncio.sleep(0.01)
        np.testing.assert_array_equal(await model.embed_texts(["a red circle"]), before)
        await model.close()
        engine._end()

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
