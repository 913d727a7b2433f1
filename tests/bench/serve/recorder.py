"""A server that keeps what it is asked, for tests of load generators."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed (apt-get install wrk)")


@dataclass(frozen=True)
class Asked:
    """What a server was asked.

    Attributes:
        url: of its root.
        bodies: of each connection that sent any, in their order.
        about: path, key and type of every different request.
    """

    url: str
    bodies: list[list[bytes]] = field(default_factory=list)
    about: set[tuple[str, str | None, str | None]] = field(default_factory=set)


@contextmanager
def recording(status: Callable[[bytes], int] = lambda _: 200) -> Iterator[Asked]:
    """Answer every body with the status that it gets."""

    class Recorder(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            self.own: list[bytes] = []

        def do_POST(self) -> None:
            if not self.own:
                asked.bodies.append(self.own)
            self.own.append(self.rfile.read(int(self.headers["Content-Length"])))
            asked.about.add((self.path, self.headers["Authorization"], self.headers["Content-Type"]))
            self.send_response(status(self.own[-1]))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            pass  # a generator that stops leaves its last requests unanswered

    with Quiet(("127.0.0.1", 0), Recorder) as server:
        asked = Asked(f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield asked
        finally:
            server.shutdown()
