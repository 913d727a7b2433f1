"""Promises of the proxy in front, kept by a real Caddy with the committed configuration, but for names and TLS."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.deployment.queries import ROOT
from tests.deployment.tools import tool
from tests.serve.live import Live, serving, wait_for

CADDYFILE = ROOT / "07-deployment" / "compose" / "Caddyfile"


@pytest.fixture
def blue() -> Iterator[Live]:
    with serving(index=":memory:", backend="torch") as live:
        yield live


@pytest.fixture
def green() -> Iterator[Live]:
    with serving(index=":memory:", backend="torch") as live:
        yield live


@pytest.fixture
def proxy(blue: Live, green: Live, tmp_path: Path) -> Iterator[httpx.Client]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    text = CADDYFILE.read_text(encoding="utf-8")
    assert "api:8000 api-green:8000" in text
    text = text.replace("api:8000 api-green:8000", f"127.0.0.1:{blue.port} 127.0.0.1:{green.port}")
    (tmp_path / "Caddyfile").write_text("{\n\tadmin off\n}\n" + text)
    command = [tool("caddy"), "run", "--adapter", "caddyfile", "--config", str(tmp_path / "Caddyfile")]
    environment = os.environ | {"DOMAIN": f"http://{address}", "HOME": str(tmp_path)}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    with httpx.Client(base_url=f"http://{address}", timeout=30) as client:

        def up() -> bool:
            assert process.poll() is None, (tmp_path / "log").read_text()
            try:
                return client.get("/readyz").status_code == 200
            except httpx.TransportError:
                return False

        try:
            wait_for(up)
            yield client
        finally:
            process.terminate()
            process.wait()


def asked(live: Live) -> float:
    """How often an instance was asked for its version."""
    value = live.service.metrics.registry.get_sample_value(
        "archlab_requests_total", {"method": "GET", "route": "/version", "status": "200"}
    )
    return value or 0.0


def test_the_world_sees_the_service_and_not_its_metrics(proxy: httpx.Client) -> None:
    assert proxy.get("/version").status_code == 200
    assert proxy.get("/metrics").status_code == 404


def test_an_upgrade_from_blue_to_green_fails_no_request(proxy: httpx.Client, blue: Live, green: Live) -> None:
    over, statuses = threading.Event(), list[int]()

    def ask() -> None:
        with httpx.Client(base_url=proxy.base_url, timeout=30) as client:
            while not over.wait(0.01):
                statuses.append(client.get("/version").status_code)

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_for(lambda: asked(blue) and asked(green))
    blue.service.drain()  # as SIGTERM does

    def is_left_alone() -> bool:
        before = asked(blue), asked(green)
        wait_for(lambda: asked(green) > before[1] + 20)
        return asked(blue) == before[0]

    wait_for(is_left_alone)
    blue.stop()
    before = asked(green)
    wait_for(lambda: asked(green) > before + 20)
    over.set()
    for thread in threads:
        thread.join()
    assert set(statuses) == {200}
