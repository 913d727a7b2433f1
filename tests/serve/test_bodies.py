"""Promises about request bodies: limits of size, time and type are kept, and every refusal says which."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from tests.serve.live import Live, base64_of, picture, problem, serving, wait_for

from archlab.serve.app import create_app
from archlab.serve.settings import Settings

IMAGE = base64_of(picture())
ASK = {"image": IMAGE, "question": "what is this"}


@pytest.fixture(scope="module")
def bare(damaged: str) -> Iterator[Live]:
    """A service whose model cannot be loaded: what is refused before the model is asked needs none."""
    with serving(
        ready=False,
        models=(damaged,),
        max_body=20_000,
        max_request_memory=30_000,
        body_seconds=0.3,
        max_deadline_seconds=5,
    ) as live:
        wait_for(lambda: live.service.failure)
        yield live


@pytest.fixture
def client(bare: Live) -> Iterator[httpx.Client]:
    with bare.client() as client:
        yield client


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/xml", ""])
def test_other_media_types_are_refused_with_those_that_are_read(client: httpx.Client, kind: str) -> None:
    answer = client.post("/v1/answer", content=json.dumps(ASK), headers={"Content-Type": kind})
    document = problem(answer, "unsupported-media-type")
    assert answer.status_code == 415
    assert "application/json or multipart/form-data" in document["detail"]
    assert document["errors"][0]["field"] == "Content-Type"
    assert answer.headers["accept-post"] == "application/json, multipart/form-data"


def test_a_form_is_refused_where_none_is_read(client: httpx.Client) -> None:
    assert client.post("/v1/translate", files={"texts": b"x"}).status_code == 415


def test_json_with_a_charset_is_read(client: httpx.Client) -> None:
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert client.post("/v1/answer", content=json.dumps(ASK), headers=headers).status_code == 503


@pytest.mark.parametrize("body", [b"", b"{", b'{"input": "\xff"}', b'{"input": "\\ud800"}', b"[" * 5000])
def test_what_is_no_json_is_malformed(client: httpx.Client, body: bytes) -> None:
    answer = client.post("/v1/embeddings", content=body, headers={"Content-Type": "application/json"})
    assert "not valid JSON" in problem(answer, "malformed")["detail"]
    assert answer.status_code == 400


@pytest.mark.parametrize("body", ["[]", "3", '"text"', "null"])
def test_json_that_is_no_object_breaks_a_rule(client: httpx.Client, body: str) -> None:
    answer = client.post("/v1/embeddings", content=body, headers={"Content-Type": "application/json"})
    assert problem(answer, "invalid")["errors"][0]["field"] == "body"


def test_values_of_json_have_the_type_that_the_document_says(client: httpx.Client) -> None:
    document = problem(client.post("/v1/caption", json={"image": IMAGE, "stream": "true"}), "invalid")
    assert document["errors"][0]["field"] == "stream"


def test_a_body_that_says_it_is_too_large_is_not_read(client: httpx.Client) -> None:
    answer = client.post("/v1/answer", json={**ASK, "question": "x" * 20_001})
    (error,) = problem(answer, "too-large")["errors"]
    assert error == {"field": "body", "pointer": "#", "rule": "must have at most 20000 bytes"}
    assert answer.status_code == 413


def test_a_body_that_does_not_say_its_size_is_cut_where_it_is_too_large() -> None:
    """Whatever the size of its parts; over a network they would be put together."""
    sent = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 1000
            yield b"x" * 1000

    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(Settings.read(max_body=20_000)))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.post("/v1/answer", content=chunks(), headers={"Content-Type": "application/json"})

    problem(asyncio.run(run()), "too-large")
    assert sent == 21_000


def test_a_body_that_does_not_arrive_is_given_up(bare: Live) -> None:
    head = (
        b"POST /v1/answer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
    )
    with socket.create_connection(("127.0.0.1", bare.port)) as connection:
        connection.sendall(head)
        assert connection.recv(100).startswith(b"HTTP/1.1 408 ")
    wait_for(lambda: bare.service.room.requests == 0)


def test_bodies_in_progress_are_bounded_together(bare: Live) -> None:
    head = (
        b"POST /v1/answer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n{"
    )
    with socket.create_connection(("127.0.0.1", bare.port)) as one, bare.client() as client:
        one.sendall(head % 19_000)
        wait_for(lambda: bare.service.room.requests == 1)
        answer = client.post("/v1/answer", json={**ASK, "question": "x" * 15_000})
        assert "does not fit" in problem(answer, "overloaded")["detail"]
        assert answer.headers["retry-after"] == "1"
    wait_for(lambda: bare.service.room.requests == bare.service.room.size == 0)


@pytest.mark.parametrize("kind", ["multipart/form-data", "multipart/form-data; boundary=x"])
def test_a_damaged_form_is_malformed(client: httpx.Client, kind: str) -> None:
    problem(client.post("/v1/answer", content=b"--y\r\nno form", headers={"Content-Type": kind}), "malformed")


def test_a_form_keeps_the_same_rules(client: httpx.Client) -> None:
    answer = client.post("/v1/classify", files={"image": picture()}, data={"labels": ["a", "a"], "lables": "b"})
    fields = {error["field"]: error["rule"] for error in problem(answer, "invalid")["errors"]}
    assert fields.keys() == {"labels", "lables"}
    assert "did you mean 'labels'" in fields["lables"]


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "soon", "5001", "٣", "1" * 30, "9" * 5000])
def test_a_deadline_is_a_number_of_milliseconds_within_the_limit(client: httpx.Client, value: str) -> None:
    answer = client.get("/version", headers={"X-Deadline-Ms": value.encode()})
    error = problem(answer, "invalid")["errors"][0]
    assert error["field"] == "X-Deadline-Ms"
    assert "from 1 to 5000" in error["rule"]


def test_a_model_that_could_not_be_loaded_is_told(client: httpx.Client, tmp_path: Path) -> None:
    answer = client.post("/v1/answer", json=ASK)
    assert "could not be loaded" in problem(answer, "not-ready")["detail"]
    assert answer.status_code == 503
    for path in ("/healthz", "/readyz"):
        health = client.get(path)
        assert health.status_code == 503
        assert health.json()["reason"]


def test_unknown_paths_and_methods_are_problems(client: httpx.Client) -> None:
    problem(client.get("/v2/answer"), "not-found")
    answer = client.get("/v1/answer")
    problem(answer, "method-not-allowed")
    assert answer.headers["allow"] == "POST"
