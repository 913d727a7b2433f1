"""The index in a process of its own, behind the service; its own promises are tested with those of other indexes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.serve.live import Live, serving, wait_for

from archlab.index.process import IsolatedIndex

SEARCH = "/v1/collections/mine/search"
EAST = {"vector": [1, 0], "k": 1}


@pytest.fixture
def live(tmp_path: Path, damaged: str) -> Iterator[Live]:
    with serving(ready=False, models=(damaged,), engines="process", index=str(tmp_path / "index")) as live:
        yield live


@pytest.fixture
def client(live: Live) -> Iterator[httpx.Client]:
    with live.client() as client:
        assert client.post("/v1/collections", json={"name": "mine", "width": 2}).status_code == 201
        points = [{"id": "east", "vector": [1, 0]}, {"id": "north", "vector": [0, 1]}]
        assert client.put("/v1/collections/mine/points", json={"points": points}).json() == {"upserted": 2}
        yield client


def other_process(live: Live) -> int:
    index = live.service.collections._index
    assert isinstance(index, IsolatedIndex)
    return index.pid


def test_a_search_asks_the_other_process_and_no_thread(
    live: Live, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert other_process(live) != os.getpid()
    monkeypatch.setattr(live.service.collections._threads, "submit", lambda *_: pytest.fail("a thread"))
    assert [hit["id"] for hit in client.post(SEARCH, json=EAST).json()["hits"]] == ["east"]
    refused = client.post(SEARCH, json={"vector": [1, 0, 0]})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "vector")


def test_its_death_costs_the_searches_under_way_and_no_point(live: Live, client: httpx.Client) -> None:
    first = other_process(live)
    psutil.Process(first).kill()
    psutil.Process(first).wait()
    answers = [client.post(SEARCH, json=EAST)]
    assert answers[0].status_code in (200, 503)  # the service may not have noticed yet
    wait_for(lambda: answers[-1].status_code == 200 or answers.append(client.post(SEARCH, json=EAST)))
    assert [hit["id"] for hit in answers[-1].json()["hits"]] == ["east"]
    assert all(int(one.headers["Retry-After"]) > 0 for one in answers[:-1])
    assert client.get("/v1/collections/mine").json()["points"] == 2
    assert other_process(live) != first


def test_what_it_takes_is_counted(live: Live, client: httpx.Client) -> None:
    families = {one.name: one for one in text_string_to_metric_families(client.get("/metrics").text)}
    own = psutil.Process().memory_info().rss
    assert families["archlab_memory_bytes"].samples[0].value > own + 2**20
    assert live.service.processes() == [other_process(live)]


def test_the_end_of_the_service_is_its_end(tmp_path: Path, damaged: str) -> None:
    with serving(ready=False, models=(damaged,), engines="process", index=str(tmp_path / "index")) as live:
        with live.client() as client:
            assert client.post("/v1/collections", json={"name": "mine", "width": 2}).status_code == 201
        process = psutil.Process(other_process(live))
        os.kill(process.pid, signal.SIGTERM)  # as where a service manager sends it to all processes of a service
    assert not process.is_running()
