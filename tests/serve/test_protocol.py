"""Promises to hold before a request is one: no head without end, no client without haste, no flood of connections."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from tests.serve.live import Live, problem, serving, wait_for
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from websockets.sync.client import connect

from archlab.serve import protocol
from archlab.serve.middleware.headers import HEADERS

HEAD = b"GET /version HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def bare(damaged: str) -> Iterator[Live]:
    """A service without a model and with little patience."""
    with serving(ready=False, models=(damaged,), max_head=2000, head_seconds=0.3, max_connections=6) as live:
        wait_for(lambda: live.service.failure)
        yield live


def told(live: Live, *pieces: bytes) -> bytes:
    """All that comes back until the connection is closed."""
    with socket.create_connection(("127.0.0.1", live.port), timeout=60) as connection:
        for piece in pieces:
            connection.sendall(piece)
        return everything(connection)


def everything(connection: socket.socket) -> bytes:
    found = b""
    try:
        while part := connection.recv(65536):
            found += part
    except ConnectionResetError:  # closed while we were still sending
        pass
    return found


def document(answer: bytes, slug: str) -> dict[str, Any]:
    """The problem document of a raw answer, which must be its last."""
    head, _, body = answer.rpartition(b"\r\n\r\n")
    lines = (line.split(": ", 1) for line in head.decode().splitlines() if ": " in line)
    headers = {name.lower(): value for name, value in lines}
    found: dict[str, Any] = json.loads(body)
    status = int(head.rpartition(b"HTTP/1.1 ")[2][:3])
    response = httpx.Response(status, headers=headers, content=body)
    assert headers["connection"] == "close"
    assert headers["cache-control"] == "no-store"
    assert HEADERS.items() <= headers.items()
    assert problem(response, slug) == found
    return found


@pytest.mark.parametrize(
    "request_",
    [
        HEAD + b"X-Long: " + b"x" * 3000 + b"\r\n\r\n",
        HEAD + b"".join(b"X-%d: many\r\n" % number for number in range(300)) + b"\r\n",
        b"GET /" + b"x" * 3000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=["header", "headers", "url"],
)
def test_a_head_that_is_too_large_is_refused(request_: bytes, bare: Live) -> None:
    assert "at most 2000 bytes" in document(told(bare, request_), "head-too-large")["detail"]


def test_a_header_without_end_is_not_kept(bare: Live) -> None:
    with socket.create_connection(("127.0.0.1", bare.port), timeout=60) as connection:
        connection.sendall(HEAD + b"X-Endless: ")
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            connection.sendall(b"x" * 100_000_000)


@pytest.mark.parametrize(
    "pieces", [[], [b"GET /ver"], [HEAD], [b"\r\n", b"\r\n"]], ids=["nothing", "line", "header", "blank"]
)
def test_a_head_that_does_not_arrive_is_given_up(pieces: list[bytes], bare: Live) -> None:
    assert "within 0.3 seconds" in document(told(bare, *pieces), "slow-head")["detail"]


def test_a_body_that_nobody_reads_holds_no_connection(bare: Live) -> None:
    """Its request was refused and answered; what drips on after that is no request."""
    head = b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", bare.port), timeout=60) as connection:
        connection.sendall(head)
        assert connection.recv(65536).startswith(b"HTTP/1.1 404 ")
        connection.sendall(b"x")
        everything(connection)  # ends


def test_what_is_no_http_is_a_problem_too(bare: Live) -> None:
    document(told(bare, b"no HTTP at all\r\n\r\n"), "malformed")


def test_connections_are_bounded_and_the_next_may_come_when_one_is_gone(bare: Live) -> None:
    with bare.client() as client:  # which has one
        assert client.get("/version").status_code == 200
        wait_for(lambda: len(bare.connections) == 1)
        others = []
        for _ in range(5):
            others.append(socket.create_connection(("127.0.0.1", bare.port)))
            others[-1].sendall(HEAD + b"\r\n")
            assert others[-1].recv(100).startswith(b"HTTP/1.1 200 ")
        found = document(told(bare), "overloaded")
        assert found["detail"] == "6 connections are open, as many as allowed."
        assert client.get("/version").status_code == 200
        for other in others:
            other.close()
        wait_for(lambda: len(bare.connections) == 1)
        with socket.create_connection(("127.0.0.1", bare.port)) as other:
            other.sendall(HEAD + b"\r\n")
            assert other.recv(100).startswith(b"HTTP/1.1 200 ")


def test_patience_is_for_heads_alone(bare: Live) -> None:
    """A connection that is kept for its next request, and a WebSocket, outlast it."""
    with bare.client() as client, connect(f"ws://127.0.0.1:{bare.port}/v1/stream") as stream:
        opened = client.get("/version").extensions["network_stream"]
        threading.Event().wait(0.6)
        again = client.get("/version").extensions["network_stream"]
        assert again.get_extra_info("socket") is opened.get_extra_info("socket")
        stream.send("no configuration")
        assert json.loads(stream.recv())["type"] == "problem"


def test_uvicorn_takes_it_by_its_name(monkeypatch: pytest.MonkeyPatch, damaged: str) -> None:
    monkeypatch.setenv("ARCHLAB_MODELS", damaged)
    config = uvicorn.Config("archlab.serve.app:create_app", factory=True, http="archlab.serve.protocol:Bounded")
    config.load()
    assert issubclass(config.http_protocol_class, HttpToolsProtocol)
    assert config.http_protocol_class is not HttpToolsProtocol
    with pytest.raises(AttributeError):
        _ = protocol.nothing
