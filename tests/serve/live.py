"""A service on a free port, in a thread of this process, so that tests can ask over HTTP and look inside."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from PIL import Image

from archlab.serve.app import create_app
from archlab.serve.command import configured
from archlab.serve.computing import Computer, EngineThread
from archlab.serve.engine_process import EngineProcess
from archlab.serve.model import Model
from archlab.serve.service import Service
from archlab.serve.settings import Settings


class Live:
    """A running service.

    Attributes:
        url: of its root.
        service: its parts.
        loop: that it runs on.
    """

    def __init__(self, settings: Settings) -> None:
        self.app = create_app(settings)
        self.service: Service = self.app.state.service
        config = configured(self.app, settings)
        config.port = 0
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.loop: asyncio.AbstractEventLoop | None = None

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=self._server.config.get_loop_factory()) as runner:
            self.loop = runner.get_loop()
            runner.run(self._server.serve())

    def start(self) -> Live:
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            threading.Event().wait(0.01)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    @property
    def connections(self) -> set[Any]:
        """Those that are open."""
        return self._server.server_state.connections

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()

    def wait_until_ready(self) -> Live:
        with self.client() as client:
            while client.get("/readyz").status_code != 200:
                assert not self.service.failure, self.service.failure
                threading.Event().wait(0.02)
        return self

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, **options)

    def run(self, coroutine: Any) -> Any:
        """The result of a coroutine on the loop of the service."""
        assert self.loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    @contextmanager
    def busy(self, name: str) -> Iterator[Model]:
        """Keep a model busy inside the block with one item, so that what is asked meanwhile waits in its queue."""
        model = self.service.models.get(name)
        assert self.loop is not None
        with self._held(model._computer):
            item = asyncio.run_coroutine_threadsafe(model.embed_texts([f"item {time.monotonic_ns()}"]), self.loop)
            wait_for(lambda: model.stats.in_flight == 1)
            yield model
        item.result()

    @contextmanager
    def _held(self, computer: Computer | None) -> Iterator[None]:
        if isinstance(computer, EngineProcess):
            os.kill(computer.pid, signal.SIGSTOP)
            try:
                yield
            finally:
                os.kill(computer.pid, signal.SIGCONT)
        else:
            assert isinstance(computer, EngineThread)
            assert self.loop is not None
            done = threading.Event()
            held = asyncio.run_coroutine_threadsafe(computer._run(done.wait), self.loop)
            try:
                yield
            finally:
                done.set()
                held.result()


def wait_for(condition: Any) -> None:
    """Until it holds; a test whose condition never does ends by its timeout."""
    while not condition():
        threading.Event().wait(0.005)


@contextmanager
def serving(ready: bool = True, **settings: Any) -> Iterator[Live]:
    """A service with these settings; where they do not name `engines`, in this process alone, as it starts sooner."""
    live = Live(Settings.read(**{"drain_seconds": 0, "index": ":memory:", "engines": "thread", **settings})).start()
    try:
        yield live.wait_until_ready() if ready else live
    finally:
        live.stop()


def picture(colour: str = "red", size: tuple[int, int] = (20, 16), kind: str = "PNG") -> bytes:
    """An encoded image."""
    file = BytesIO()
    Image.new("RGB", size, colour).save(file, kind)
    return file.getvalue()


def png(pixels: np.ndarray) -> bytes:
    """Pixels (H, W, 3) as an encoded image."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def noise(side: int = 64) -> bytes:
    """An image that compresses badly."""
    return png(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8))


def documented(live: Live) -> list[tuple[str, str, Any]]:
    """Method, path and body of every example of the OpenAPI document, in its order; nothing is filled in but by it."""
    found = []
    for path, methods in live.app.openapi()["paths"].items():
        for method, operation in methods.items():
            parts = {one["name"]: one for one in operation.get("parameters", ()) if one["in"] == "path"}
            names = {name: next(iter(one["examples"].values()))["value"] for name, one in parts.items()}
            content = operation.get("requestBody", {}).get("content", {}).get("application/json")
            bodies = [example["value"] for example in content["examples"].values()] if content else [None]
            found += [(method, path.format(**names), body) for body in bodies]
    return found


def problem(response: httpx.Response, slug: str) -> dict[str, Any]:
    """The problem document of an answer, which must be one of that kind."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    document: dict[str, Any] = response.json()
    assert document["type"] == f"urn:archlab:problem:{slug}", document
    assert document["status"] == response.status_code
    assert document["instance"] == f"urn:archlab:request:{response.headers['x-request-id']}"
    assert "Traceback" not in response.text
    return document


Folders = dict[str, Path]
