"""Promises of every answer: an id, security headers, a log record without payload, and no traceback."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, WebSocket
from tests.serve.live import problem

from archlab.errors import UserError
from archlab.serve import logs, problems
from archlab.serve.app import create_app
from archlab.serve.errors import EngineFailed
from archlab.serve.middleware.headers import HEADERS
from archlab.serve.problems import Problem
from archlab.serve.settings import Settings

SOURCE = Path(logs.__file__).parent


def ask(app: FastAPI, method: str, path: str, **options: object) -> httpx.Response:
    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, **options)  # type: ignore[arg-type]

    return asyncio.run(run())


@pytest.fixture
def app() -> FastAPI:
    app = create_app(Settings.read())

    @app.get("/boom")
    async def boom() -> None:
        raise RuntimeError("secret detail of the inside")

    return app


@pytest.fixture
def log() -> io.StringIO:
    stream = io.StringIO()
    logs.configure("json", "info", stream)
    return stream


def records(log: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


def test_no_middleware_is_one_of_starlettes_base_http_middleware() -> None:
    """It costs three quarters of the throughput, and `@app.middleware("http")` is the same."""
    for path in SOURCE.rglob("*.py"):
        code = path.read_text(encoding="utf-8")
        assert "import BaseHTTPMiddleware" not in code
        assert ".middleware(" not in code
    from starlette.middleware.base import BaseHTTPMiddleware

    stack = create_app(Settings.read()).user_middleware
    assert len(stack) == 4
    assert not any(isinstance(one.cls, type) and issubclass(one.cls, BaseHTTPMiddleware) for one in stack)


@pytest.mark.usefixtures("log")
def test_every_answer_has_the_security_headers_and_is_not_stored(app: FastAPI) -> None:
    for path in ("/version", "/nowhere", "/boom", "/docs"):
        headers = ask(app, "GET", path).headers
        assert HEADERS.items() <= dict(headers).items()
        assert headers["cache-control"] == "no-store"
    assert "max-age" in ask(app, "GET", "/docs/favicon.png").headers["cache-control"]


def test_what_made_an_engine_fail_is_in_the_log_under_the_id_of_the_request(app: FastAPI, log: io.StringIO) -> None:
    @app.get("/broken")
    async def broken() -> None:
        raise EngineFailed("model 'm' has failed") from RuntimeError("no memory left on the device")

    @app.get("/wrong")
    async def wrong() -> None:
        raise UserError("not for the operator") from RuntimeError("nothing to mend")

    assert "memory" not in ask(app, "GET", "/broken", headers={"X-Request-Id": "job-7"}).text
    assert ask(app, "GET", "/wrong").status_code == 422
    (failed,) = (record for record in records(log) if record["event"] == "failed")
    assert (failed["request_id"], failed["level"]) == ("job-7", "error")
    assert "model 'm' has failed" in str(failed["detail"])
    assert "no memory left on the device" in str(failed["exception"])


def test_a_request_id_is_the_callers_or_a_new_one(app: FastAPI) -> None:
    assert ask(app, "GET", "/version", headers={"X-Request-Id": "job-7:a.b"}).headers["x-request-id"] == "job-7:a.b"
    for id_ in ("", "a b", "x" * 65, 'a"}\n'):
        given = ask(app, "GET", "/version", headers={"X-Request-Id": id_.encode()}).headers["x-request-id"]
        assert len(given) == 16
        assert given != id_


def test_a_defect_is_a_problem_whose_traceback_is_in_the_log_alone(app: FastAPI, log: io.StringIO) -> None:
    answer = ask(app, "GET", "/boom", headers={"X-Request-Id": "defect-1"})
    problem(answer, "internal")
    assert "secret detail" not in answer.text
    defect = next(one for one in records(log) if one["event"] == "defect")
    assert defect["request_id"] == "defect-1"
    assert "RuntimeError: secret detail of the inside" in str(defect["exception"])
    assert records(log)[-1]["status"] == 500


def test_a_request_is_one_record_without_its_payload(app: FastAPI, log: io.StringIO) -> None:
    ask(app, "POST", "/v1/embeddings?token=hidden", json={"input": "private words"}, headers={"X-Request-Id": "r1"})
    (record,) = records(log)
    assert record["event"] == "request"
    facts = ("request_id", "method", "route", "status", "caller", "problem", "items")
    assert [record[name] for name in facts] == ["r1", "POST", "/v1/embeddings", 404, "local", "not-found", 1]
    assert not any(word in log.getvalue() for word in ("private", "hidden"))


def test_the_standard_library_logs_in_the_same_form(log: io.StringIO) -> None:
    logging.getLogger("uvicorn.error").info("started %s", "x")
    logging.getLogger("some.library").info("chatter")
    logging.getLogger("uvicorn.access").info("GET /")
    (record,) = records(log)
    assert (record["event"], record["level"]) == ("started x", "info")


def test_text_logs_are_for_people_and_show_no_local_variables(app: FastAPI) -> None:
    stream = io.StringIO()
    logs.configure("text", "info", stream)
    ask(app, "GET", "/boom", headers={"Authorization": "Bearer hidden"})
    assert "RuntimeError: secret detail" in stream.getvalue()
    assert not any(sign in stream.getvalue() for sign in ("{", "locals", "hidden"))


def test_no_caller_can_write_a_record_of_his_own_into_a_text_log(app: FastAPI) -> None:
    stream = io.StringIO()
    logs.configure("text", "info", stream)
    ask(app, "GET", "/v1/models/%0aforged", headers={"Host": "example.org"})  # refused, which is audited with its path
    assert "forged" in stream.getvalue()
    assert not any(line.startswith("forged") for line in stream.getvalue().splitlines())


def test_what_fastapi_refuses_is_a_problem_too(app: FastAPI) -> None:
    @app.get("/typed")
    async def typed(number: int) -> int:
        return number

    (error,) = problem(ask(app, "GET", "/typed?number=x"), "invalid")["errors"]
    assert error["field"] == "query.number"
    assert "valid integer" in error["rule"]


def test_a_websocket_is_refused_with_a_problem(app: FastAPI) -> None:
    @app.websocket("/socket")
    async def socket(_: WebSocket) -> None:
        raise Problem(problems.NOT_FOUND, "There is no such stream.")

    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "websocket",
        "path": "/socket",
        "headers": [],
        "server": ("127.0.0.1", 80),
        "query_string": b"",
        "extensions": {"websocket.http.response": {}},
    }
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 404
    assert json.loads(sent[1]["body"])["detail"] == "There is no such stream."


def test_labels_of_metrics_are_bounded(app: FastAPI) -> None:
    for number in range(30):
        ask(app, "GET", f"/nowhere/{number}")
        ask(app, "GET", f"/v1/models/{number}")
    ask(app, "BREW", "/coffee")
    page = ask(app, "GET", "/metrics").text
    routes = [line for line in page.splitlines() if line.startswith("archlab_requests_total{")]
    assert len(routes) == 3
    assert 'archlab_requests_total{method="GET",route="unmatched",status="404"} 30.0' in routes
    assert 'archlab_requests_total{method="GET",route="/v1/models/{name}",status="404"} 30.0' in routes
    assert any('method="OTHER"' in line for line in routes)
    assert 'archlab_problems_total{kind="not-found"}' in page
