"""Promises of `/docs`: it shows the service's own document and asks no other machine for anything."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
from tests.serve.live import serving

from archlab.serve.app import create_app
from archlab.serve.auth import create_key
from archlab.serve.settings import Settings

CHROMIUM = shutil.which("chromium")


async def _get(paths: list[str], **settings: object) -> list[httpx.Response]:
    transport = httpx.ASGITransport(create_app(Settings.read(**settings)))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return [await client.get(path) for path in paths]


def get(*paths: str, **settings: object) -> list[httpx.Response]:
    return asyncio.run(_get(list(paths), **settings))


def test_the_page_loads_only_what_the_service_serves() -> None:
    (page,) = get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    links = re.findall(r'(?:href|src|data-document)="([^"]+)"', page.text)
    assert len(links) == 5
    assert all(link.startswith("/") for link in links)
    assert "<script>" not in page.text
    for answer in get(*links):
        assert answer.status_code == 200
    assert "script-src 'self'" in page.headers["content-security-policy"]


def test_the_files_are_those_of_swagger_ui_5_which_reads_openapi_3_1() -> None:
    script, style = get("/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css")
    assert script.headers["content-type"].startswith("text/javascript")
    assert style.headers["content-type"].startswith("text/css")
    assert "SwaggerUIBundle" in script.text
    assert re.search(r'version:"5\.\d+\.\d+"|"5\.\d+\.\d+"', script.text)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_draws_every_operation_under_the_content_security_policy() -> None:
    with serving(ready=False, backend="torch") as live:
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--virtual-time-budget=15000",
            "--enable-logging=stderr",
        ]
        done = subprocess.run(
            [str(CHROMIUM), *options, "--dump-dom", f"{live.url}/docs"], capture_output=True, text=True, check=True
        )
        operations = [one for methods in live.app.openapi()["paths"].values() for one in methods]
    assert len(re.findall(r'class="opblock opblock-\w+', done.stdout)) == len(operations)
    assert "CONSOLE" not in done.stderr


@pytest.mark.parametrize("path", ["/docs/redoc.standalone.js", "/docs/..%2Fcore.py", "/docs/x", "/redoc"])
def test_nothing_else_is_served_from_there(path: str) -> None:
    assert get(path)[0].status_code == 404


def test_keys_are_in_the_document_where_they_are_asked_for(tmp_path: Path) -> None:
    create_key(tmp_path / "keys.json", "a")
    (without,), (having,) = get("/openapi.json"), get("/openapi.json", api_keys=tmp_path / "keys.json")
    assert "securitySchemes" not in without.json()["components"]
    assert having.json()["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    operation = having.json()["paths"]["/v1/answer"]["post"]
    assert operation["security"] == [{"key": []}]
    assert "401" in operation["responses"]


def test_every_operation_is_described_and_says_how_it_fails() -> None:
    (answer,) = get("/openapi.json")
    for path, methods in answer.json()["paths"].items():
        for operation in methods.values():
            assert operation["summary"]
            assert operation["description"]
            if path.startswith("/v1/"):
                assert {"422", "403", "500"} <= operation["responses"].keys()
            if "requestBody" in operation:
                assert operation["requestBody"]["content"]["application/json"].get("examples")
