"""Servers under test: each a process of its own with its children, started, held still and ended as one.

While one is measured the others are stopped in the middle of what they do (SIGSTOP): a worker that polls its queue, as
some do, would otherwise take its share of the processors from whoever is measured.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import httpx
import psutil

_PATIENCE = 180.0  # seconds until a server must answer: it may export its model first
_GRACE = 15.0  # seconds to end in


class Server:
    """A server from its start to its end. Use as a context manager.

    Args:
        arguments: of `python -m`, which `{port}` is filled into.
        path: that is asked to find out whether it answers.
        body: that it is asked with there.
        log: file that it writes to.
        key: API key.
        settings: of its environment; other variables with ARCHLAB_ in front do not reach it, but those of folders.
        ready: path that answers with 200 once all is started, for a server that answers before.

    Attributes:
        url: of its root.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        path: str,
        body: bytes,
        log: Path,
        key: str = "",
        settings: Mapping[str, str] | None = None,
        ready: str = "",
    ) -> None:
        self._path, self._body, self.log, self.key, self._ready = path, body, log, key, ready
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        folders = ("ARCHLAB_CACHE", "ARCHLAB_DATA")
        kept = {name: value for name, value in os.environ.items() if name[:8] != "ARCHLAB_" or name in folders}
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *(part.format(port=port) for part in arguments)],
                env=kept | dict(settings or {}),
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # its children are signalled with it
            )

    def __enter__(self) -> Self:
        try:
            self.wait()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def ask(self, body: bytes, path: str | None = None) -> httpx.Response:
        """Post a body; the search's, unless another path is named."""
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        return httpx.post(self.url + (path or self._path), content=body, headers=headers, timeout=30)

    def wait(self) -> None:
        """Until it answers.

        Raises:
            RuntimeError: it ended, or does not answer in time.
        """
        until, last = time.monotonic() + _PATIENCE, "nothing"
        while time.monotonic() < until and self._process.poll() is None:
            with suppress(httpx.HTTPError):
                answer = self.ask(self._body)
                if answer.status_code == 200 and self._ready:
                    answer = httpx.get(self.url + self._ready, timeout=30)
                if answer.status_code == 200:
                    return
                last = f"{answer.status_code} {answer.text[:200]}"
            time.sleep(0.2)
        written = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        end = " / ".join(written[-5:])
        raise RuntimeError(f"a server does not answer but with {last}; the end of its log {self.log}: {end}")

    def pause(self) -> None:
        """Hold it still."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def end(self) -> None:
        """End it with all its children."""
        self.resume()
        children = psutil.Process(self._process.pid).children(recursive=True) if self._process.poll() is None else []
        self._signal(signal.SIGTERM)
        try:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE)
        finally:  # also where whoever waits is interrupted
            self._signal(signal.SIGKILL)
            for child in children:
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            self._process.wait()

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port
