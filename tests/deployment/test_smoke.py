"""Promises of the smoke test where something does not work; `serve/test_scraped.py` asks it where all is well."""

from __future__ import annotations

import runpy
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from tests.deployment.queries import MONITORING

SMOKE = runpy.run_path(str(MONITORING.parent / "smoke.py"))


class Proxy(BaseHTTPRequestHandler):
    """Alive, and without an instance that is ready: its refusal is no JSON, or nothing at all."""

    def do_GET(self) -> None:
        status, body = {"/healthz": (200, b"{}"), "/html": (502, b"<h1>Bad Gateway</h1>")}.get(self.path, (503, b""))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def proxy() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_refusal_of_a_proxy_is_an_answer(proxy: str) -> None:
    assert SMOKE["ask"](f"{proxy}/html") == (502, "<h1>Bad Gateway</h1>")
    assert SMOKE["ask"](f"{proxy}/readyz") == (503, "")


def test_what_never_gets_ready_is_one_line(proxy: str) -> None:
    with pytest.raises(SystemExit, match=r"^ready: not within 0 seconds; last answer: \(503, ''\)$"):
        SMOKE["main"]([proxy, "KEY", "--seconds", "0"])


def test_who_does_not_answer_is_told_with_the_reason() -> None:
    status, reason = SMOKE["ask"]("http://127.0.0.1:9")
    assert status == 0
    assert "refused" in reason


def test_a_collection_that_cannot_be_made_is_one_line(proxy: str) -> None:
    with pytest.raises(SystemExit, match=r"^a collection: not within 0 seconds; last answer: \(501, "):
        SMOKE["search"](proxy, "KEY", 0)
