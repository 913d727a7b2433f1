"""SIGTERM under load: not ready at once, every request that was taken is answered, and the process ends well."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from tests.serve.holding import EndlessExport
from tests.serve.live import base64_of, picture, wait_for
from websockets.sync.client import connect

from archlab.serve.drain import Drain
from archlab.serve.service import Service
from archlab.serve.settings import Settings

ASK = {"image": base64_of(picture()), "question": "what is this"}


@pytest.fixture
def passed_on() -> Iterator[list[int]]:
    """SIGTERMs that reach the handler of the server."""
    got: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: got.append(number))
    yield got
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(("seconds", "reach"), [(60, [0, 1]), (0, [1, 2])])
def test_the_first_signal_waits_and_the_second_is_in_earnest(
    seconds: float, reach: list[int], passed_on: list[int]
) -> None:
    service, reached = Service(Settings.read()), []

    async def terminate_twice() -> None:
        Drain(service, seconds).install()
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)
            await asyncio.sleep(0)
            reached.append(len(passed_on))

    asyncio.run(terminate_twice())
    assert reached == reach
    assert service.draining == (seconds > 0)


def test_after_its_time_the_signal_is_passed_on(passed_on: list[int]) -> None:
    async def terminate() -> None:
        Drain(Service(Settings.read()), 0.01).install()
        signal.raise_signal(signal.SIGTERM)
        while not passed_on:
            await asyncio.sleep(0.005)

    asyncio.run(terminate())
    assert passed_on == [signal.SIGTERM]


def test_where_the_models_are_not_loaded_yet_nothing_is_waited_for(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passed_on: list[int]
) -> None:
    """No balancer has sent anything, and an export that nobody needs any more takes a minute."""

    async def stopped_while_it_starts() -> None:
        service = Service(Settings.read(models=(str(runs["scenes-vljepa"]),)))
        export = EndlessExport(tmp_path, monkeypatch)
        Drain(service, 60).install()
        service.start()
        await export.begun()
        signal.raise_signal(signal.SIGTERM)
        assert passed_on == [signal.SIGTERM]
        await service.close()
        assert not export.runs
        assert service.failure == ""

    asyncio.run(stopped_while_it_starts())


@pytest.fixture
def process(entries: tuple[str, ...], tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "ARCHLAB_DRAIN_SECONDS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "archlab", "serve", *entries, "--port", "0", "--backend", "torch"]
    with (tmp_path / "log").open("w") as log:
        started = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.PIPE, text=True)
        yield started
        started.kill()
        started.wait()


def test_sigterm_under_load_fails_no_request(process: subprocess.Popen[str], tmp_path: Path) -> None:
    assert process.stderr is not None
    greeting = [process.stderr.readline() for _ in range(4)]
    url = greeting[0].strip().removesuffix("/docs")
    assert greeting[3] == "no API keys: only this machine is served\n"
    with httpx.Client(base_url=url, timeout=60) as client, ExitStack() as stack:
        wait_for(lambda: client.get("/readyz").status_code == 200)

        balanced = threading.Event()  # what a balancer does: it sends nothing once the instance is not ready
        answered: list[int] = []
        failed: list[Exception] = []

        def ask() -> None:
            with httpx.Client(base_url=url, timeout=60) as own:
                while not balanced.is_set():
                    try:
                        answered.append(own.post("/v1/answer", json=ASK).status_code)
                    except httpx.HTTPError as error:
                        failed.append(error)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(answered) > 8)
        stream = stack.enter_context(connect(url.replace("http", "ws") + "/v1/stream"))
        stream.send("{}")
        stream.send(picture())
        wait_for(lambda: json.loads(stream.recv())["type"] == "ack")
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: client.get("/readyz").status_code == 503)
        at_signal = len(answered)
        wait_for(lambda: len(answered) > at_signal + 4)  # it serves on meanwhile
        assert client.get("/healthz").status_code == 200
        assert client.get("/version").headers["connection"] == "close"
        last = [json.loads(message) for message in stream]
        assert [(one["type"], one.get("code")) for one in last] == [("segment_end", None), ("end", 1001)]
        balanced.set()
        for thread in threads:
            thread.join()
    assert process.wait() == 0
    assert failed == []
    assert set(answered) == {200}
    events = [json.loads(line)["event"] for line in (tmp_path / "log").read_text().splitlines()]
    assert events.index("ready") < events.index("draining")
    assert events.index("draining") < events.index("stream")
    assert "defect" not in events
