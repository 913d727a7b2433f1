"""Promises of a service without keys: this machine is served, and nobody else, not even through a browser."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from tests.serve.live import problem

from archlab.serve.app import create_app
from archlab.serve.middleware.loopback import is_loopback
from archlab.serve.settings import Settings


def ask(url: str, **headers: str) -> httpx.Response:
    app = create_app(Settings.read())

    async def run() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
            return await client.get(url, headers=headers)

    return asyncio.run(run())


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000", "http://localhost", "http://[::1]:9", "http://127.8.8.8"])
def test_this_machine_is_served(url: str) -> None:
    assert ask(f"{url}/version").status_code == 200
    assert ask(f"{url}/version", Origin="http://localhost:3000").status_code == 200


def test_a_connection_to_another_address_is_refused_with_the_remedy() -> None:
    document = problem(ask("http://192.168.1.7:8000/version", Host="localhost"), "forbidden")
    assert document["detail"].startswith("address 192.168.1.7: without API keys only this machine is served")
    assert "archlab keys create" in document["detail"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "localhost.evil.example:8000"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
)
def test_pages_of_other_sites_do_not_reach_it_through_a_browser(headers: dict[str, str]) -> None:
    problem(ask("http://127.0.0.1/version", **headers), "forbidden")


@pytest.mark.parametrize(
    ("host", "is_it"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("", False),
        ("::", False),
    ],
)
def test_what_the_loopback_is(host: str, is_it: bool) -> None:
    assert is_loopback(host) is is_it


def test_a_websocket_from_elsewhere_is_closed() -> None:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/", "headers": [], "server": ("10.0.0.1", 80), "query_string": b""}
    asyncio.run(create_app(Settings.read())(scope, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008, "reason": "address 10.0.0.1"}]
