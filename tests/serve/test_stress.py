"""Promises under stress: full, late, left, broken or ending, the service says so and goes on."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from tests.serve.holding import broken
from tests.serve.live import Live, base64_of, noise, picture, problem, serving, wait_for
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from archlab.serve import models
from archlab.serve.auth import create_key
from archlab.serve.problems import Problem

ASK = {"image": base64_of(picture()), "question": "what is this", "model": "scenes-token"}


@pytest.fixture(scope="module")
def small(entries: tuple[str, ...], engines: str) -> Iterator[Live]:
    """A service with a short queue."""
    with serving(models=entries, backend="torch", engines=engines, queue_items=4, max_requests=12) as live:
        yield live


def post(live: Live, body: Any = ASK, path: str = "/v1/answer", **headers: str) -> httpx.Response:
    with live.client() as client:
        return client.post(path, json=body, headers=headers)


def test_a_full_queue_refuses_with_retry_after_and_answers_what_it_took(small: Live) -> None:
    with ThreadPoolExecutor(4) as pool, small.busy("scenes-token") as model:
        taken = [pool.submit(post, small) for _ in range(4)]
        wait_for(lambda: model.stats.queued == 4)
        answer = post(small)
        assert "at most 4 may" in problem(answer, "overloaded")["detail"]
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
        assert post(small, {**ASK, "model": "scenes-vljepa"}).status_code == 200
    assert [one.result().status_code for one in taken] == [200] * 4


def test_the_queue_counts_items_and_not_requests(small: Live) -> None:
    with ThreadPoolExecutor(1) as pool, small.busy("scenes-vljepa") as model:
        taken = pool.submit(post, small, {"input": ["a", "b", "c"]}, "/v1/embeddings")
        wait_for(lambda: model.stats.queued == 3)
        problem(post(small, {"input": ["d", "e"]}, "/v1/embeddings"), "overloaded")
    assert taken.result().status_code == 200


def test_more_items_than_the_queue_ever_holds_are_a_broken_rule(small: Live) -> None:
    problem(post(small, {"input": [str(number) for number in range(5)]}, "/v1/embeddings"), "invalid")


def test_requests_in_progress_are_bounded(small: Live) -> None:
    """Also those that only send, and never finish."""
    head = (
        b"POST /v1/answer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
    )
    connections = [socket.create_connection(("127.0.0.1", small.port)) for _ in range(12)]
    for connection in connections:
        connection.sendall(head)
    wait_for(lambda: small.service.room.requests == 12)
    problem(post(small), "overloaded")
    for connection in connections:
        connection.close()
    wait_for(lambda: small.service.room.requests == 0)
    assert post(small).status_code == 200


def test_a_deadline_is_honoured_and_its_item_is_not_computed(small: Live) -> None:
    with small.busy("scenes-token") as model:
        before = model.stats.items
        answer = post(small, **{"X-Deadline-Ms": "60"})
        assert "60 milliseconds" in problem(answer, "expired")["detail"]
        assert answer.status_code == 504
        wait_for(lambda: model.stats.queued == 0)
    assert post(small).status_code == 200
    assert model.stats.items == before + 2  # the one that kept it busy, and this one


def test_a_client_that_leaves_frees_its_place_and_nothing_is_computed_for_it(small: Live) -> None:
    with small.busy("scenes-token") as model:
        before, dropped = model.stats.items, model.stats.dropped["cancelled"]
        with small.client() as client, pytest.raises(httpx.ReadTimeout):
            client.post("/v1/answer", json=ASK, timeout=0.3)
        wait_for(lambda: model.stats.queued == 0)
        assert model.stats.dropped["cancelled"] == dropped + 1
    wait_for(lambda: small.service.room.requests == 0)
    assert post(small).status_code == 200
    assert model.stats.items == before + 2  # the one that kept it busy, and this one
    with small.client() as client:
        assert 'archlab_disconnects_total{route="/v1/answer"}' in client.get("/metrics").text


def test_a_client_that_leaves_a_stream_stops_the_decoding(small: Live) -> None:
    with (
        small.client() as client,
        client.stream("POST", "/v1/caption", json={"image": ASK["image"], "stream": True}) as one,
    ):
        next(one.iter_raw())
    wait_for(lambda: small.service.room.requests == 0)
    model = small.service.models.get("scenes-vljepa")
    wait_for(lambda: model._users == 0)
    assert post(small).status_code == 200


def test_callers_are_refused_before_their_body_is_read_when_it_is_full(small: Live) -> None:
    with ExitStack() as held, small.client() as client:
        for _ in range(12):
            held.enter_context(small.service.room.taken("others", 0))
        answer = client.post("/v1/answer", content=b"not even JSON", headers={"Content-Type": "application/json"})
        problem(answer, "overloaded")


def test_requests_without_a_body_take_a_place_too_and_health_none(small: Live) -> None:
    with small.client() as client:
        assert client.get("/v1/models").status_code == 200
        with ExitStack() as held:
            for _ in range(12):
                held.enter_context(small.service.room.taken("others", 0))
            asked = [("GET", "models"), ("GET", "models/x/card"), ("DELETE", "models/x"), ("PUT", "models/x/default")]
            asked += [("GET", "collections"), ("GET", "collections/x"), ("DELETE", "collections/x")]
            for method, path in asked:
                problem(client.request(method, f"/v1/{path}"), "overloaded")
            for path in ("healthz", "readyz", "metrics", "version"):
                assert client.get(f"/{path}").status_code == 200
        assert client.get("/v1/models").status_code == 200
    wait_for(lambda: small.service.room.requests == 0)


def take_all(held: ExitStack, place: Callable[[], AbstractContextManager[None]]) -> None:
    """Until no more is to be had."""
    while True:
        held.enter_context(place())


def test_a_key_that_takes_every_place_it_can_get_leaves_some_for_others(
    entries: tuple[str, ...], tmp_path: Path
) -> None:
    """Of requests, of bytes and of streams."""
    file = tmp_path / "keys.json"
    greedy, other = ({"Authorization": f"Bearer {create_key(file, name, ['read'], 1e6, 10**6)}"} for name in "ab")
    settings = {"models": entries, "backend": "torch", "api_keys": file, "max_body": 2**20, "max_request_memory": 2**23}
    with serving(**settings, max_requests=10, max_streams=5) as live, live.client() as client, ExitStack() as held:
        room, streams = live.service.room, live.service.streams
        for size in (0, 2**20):
            with ExitStack() as flood:
                with pytest.raises(Problem, match="Of key 'a' alone"):
                    take_all(flood, lambda size=size: room.taken("a", size))
                client.headers["Content-Type"] = "application/json"
                problem(client.post("/v1/answer", content=b"x" * size, headers=greedy), "rate-limited")
                problem(client.post("/v1/answer", content=b"x" * size, headers=other), "malformed")
        with pytest.raises(Problem, match="Of key 'a' alone"):
            take_all(held, lambda: streams.place("a"))
        with connect(f"ws://127.0.0.1:{live.port}/v1/stream", additional_headers=other):
            pass
        with (
            pytest.raises(InvalidStatus) as refused,
            connect(f"ws://127.0.0.1:{live.port}/v1/stream", additional_headers=greedy),
        ):
            pass
        assert refused.value.response.status_code == 429


def test_candidates_are_work_like_images_for_the_rate_and_for_the_queue(
    entries: tuple[str, ...], tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"
    key = create_key(file, "slow", ["read"], 0.001, 12)
    labels = [f"label {number}" for number in range(10)]
    asked: list[tuple[str, dict[str, Any]]] = [
        ("/v1/classify", {"image": ASK["image"], "labels": labels, "model": "scenes-token"}),
        ("/v1/answer", {**ASK, "candidates": labels}),
        ("/v1/compare", {"image": ASK["image"], "question": "what is this", "candidates": labels}),
    ]
    for path, body in asked:
        settings = {"models": entries, "backend": "torch", "queue_items": 12}
        with serving(**settings, api_keys=file) as live, live.client() as client:
            client.headers["Authorization"] = f"Bearer {key}"
            assert client.post(path, json=body).status_code == 200  # the bucket was full
            problem(client.post(path, json=body), "rate-limited")
    path, body = asked[0]
    with serving(models=entries, backend="torch", queue_items=12) as live, ThreadPoolExecutor(1) as pool:
        with live.busy("scenes-token") as model:
            taken = pool.submit(post, live, body, path)
            wait_for(lambda: model.stats.queued == 10)
            problem(post(live, body, path), "overloaded")
            assert model.stats.dropped["refused"] == 10
        assert taken.result().status_code == 200


def test_a_broken_engine_turns_readiness_red_and_then_liveness_and_heals(small: Live) -> None:
    model = small.service.models.get("scenes-token")
    with small.client() as client:
        with broken(model):
            answer = post(small)
            document = problem(answer, "engine-failed")
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) >= 1
            assert document["detail"] == "model 'scenes-token' has failed; ask again, it is being looked after."
            ready = client.get("/readyz")
            assert (ready.status_code, ready.json()["reason"]) == (503, "scenes-token: not answering")
            assert "archlab_ready 0.0" in client.get("/metrics").text
            assert post(small, {**ASK, "model": "scenes-vljepa"}).status_code == 200
            wait_for(lambda: client.get("/healthz").status_code == 503)
        wait_for(lambda: client.get("/readyz").status_code == 200)
        assert client.get("/healthz").status_code == 200
    assert post(small).status_code == 200


@pytest.mark.parametrize("engines", ["process"], indirect=True)
def test_a_killed_engine_costs_what_is_under_way_and_mixes_no_answers_up(small: Live) -> None:
    """Nor of what is asked while another process takes its place."""
    model = small.service.models.get("scenes-token")
    asked = [{**ASK, "image": base64_of(picture(colour))} for colour in ("red", "green", "blue")]
    right = [post(small, body).json()["answer"] for body in asked]
    assert len(set(right)) > 1

    def ask(row: int) -> set[int]:
        """Again and again, until the next process has answered; the statuses."""
        statuses = set()
        while True:
            answer = post(small, asked[row])
            statuses.add(answer.status_code)
            if answer.status_code != 200:
                problem(answer, "engine-failed")
                continue
            assert answer.json()["answer"] == right[row]
            if model.pid != killed:
                return statuses

    with ThreadPoolExecutor() as pool:
        for _ in range(2):
            killed = model.pid
            assert killed is not None
            asking = [pool.submit(ask, row) for row in range(len(asked))]
            wait_for(lambda: model.stats.in_flight)
            os.kill(killed, signal.SIGKILL)
            assert set().union(*(one.result() for one in asking)) == {200, 503}


def test_memory_is_bounded_under_a_flood(entries: tuple[str, ...], engines: str) -> None:
    """Every image alone is read; together they would be four times as much as all requests may hold.

    While the model is busy nothing is answered: what fits waits, and everything else must be refused.
    """
    body = {"image": base64_of(noise(700)), "question": "what is this", "model": "scenes-token"}
    size, most, clients = len(str(body)), 8 * 2**20, 16
    assert size * clients > 3 * most
    with serving(models=entries[:1], backend="torch", engines=engines, max_request_memory=most) as live:
        post(live, body)
        process, done, highest = psutil.Process(os.getpid()), threading.Event(), 0

        def watch() -> None:
            nonlocal highest
            while not done.wait(0.002):
                highest = max(highest, live.service.room.size)

        watcher = threading.Thread(target=watch)
        watcher.start()
        before = process.memory_info().rss
        with ThreadPoolExecutor(clients) as pool:
            with live.busy("scenes-token"):
                flood = [pool.submit(post, live, body) for _ in range(clients)]
                wait_for(lambda: sum(one.done() for one in flood) >= clients - most // size)
            answers = [one.result() for one in flood] + list(pool.map(lambda _: post(live, body), range(clients * 3)))
        done.set()
        watcher.join()
        refused = [one for one in answers[:clients] if one.status_code != 200]
        assert len(refused) == clients - most // size
        for answer in (one for one in answers if one.status_code != 200):
            problem(answer, "overloaded")
            assert int(answer.headers["retry-after"]) >= 1
        assert 0 < highest <= most
        # The clients of this process hold their bodies too: 16 of them, several times.
        assert process.memory_info().rss - before < 400 * 2**20
        assert live.service.room.size == 0
        assert post(live, body).status_code == 200


def test_while_models_load_health_answers_and_requests_are_told_to_wait(
    entries: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, open_engine = threading.Event(), models.open_engine

    def held(*given: Any) -> Any:
        assert go_on.wait(60)
        return open_engine(*given)

    monkeypatch.setattr(models, "open_engine", held)
    default = {name: value for name, value in ASK.items() if name != "model"}
    with serving(models=entries, backend="torch", ready=False) as live, live.client() as client:
        try:
            wait_for(lambda: live.service.models.loading)
            ready = client.get("/readyz")
            assert ready.status_code == 503
            assert ready.json()["reason"] == "the models are being loaded: 0 of 2 are, now scenes-token"
            assert client.get("/healthz").status_code == 200
            for body in (default, ASK):
                answer = post(live, body)
                assert "ask again" in problem(answer, "not-ready")["detail"]
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        finally:
            go_on.set()
        live.wait_until_ready()
        assert post(live, default).status_code == 200
