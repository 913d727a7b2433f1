"""Promises of loading: what serves goes on serving, and nothing outside the roots is touched."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.serve.live import Live, base64_of, picture, problem, serving, wait_for

from archlab.serve import models
from archlab.serve.settings import WEIGHTS

ASK = {"image": base64_of(picture()), "question": "what is this"}


@pytest.fixture
def own(runs: dict[str, Path], entries: tuple[str, ...]) -> Iterator[Live]:
    """A service of this test's own, which may load from where the token run lies."""
    root = runs["scenes-token"].parent
    with serving(models=entries, backend="torch", model_roots=(root,), max_models=3) as live:
        yield live


def load(client: httpx.Client, name: str, folder: str) -> httpx.Response:
    return client.post("/v1/models", json={"name": name, "folder": folder, "backend": "torch"})


def test_both_models_serve_while_a_third_loads(
    own: Live, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    loading, go_on, open_engine = threading.Event(), threading.Event(), models.open_engine

    def held(*given: Any) -> Any:
        loading.set()
        assert go_on.wait(60)
        return open_engine(*given)

    monkeypatch.setattr(models, "open_engine", held)
    with own.client() as client, ThreadPoolExecutor(1) as pool:
        third = pool.submit(load, client, "third", runs["scenes-token"].name)
        try:
            assert loading.wait(60)
            for model in runs:
                assert client.post("/v1/answer", json={**ASK, "model": model}).status_code == 200
            assert client.get("/readyz").status_code == 200
            problem(client.post("/v1/answer", json={**ASK, "model": "third"}), "not-ready")
        finally:
            go_on.set()
        assert third.result().json()["id"] == "third"
        assert client.post("/v1/answer", json={**ASK, "model": "third"}).status_code == 200


def test_a_default_is_set_and_an_unloaded_model_is_gone(own: Live, runs: dict[str, Path]) -> None:
    with own.client() as client:
        assert not load(client, "third", str(runs["scenes-token"])).json()["default"]
        assert client.put("/v1/models/third/default").json()["default"]
        assert client.post("/v1/compare", json=ASK).json()["arms"][0]["model"] == "third"
        assert client.delete("/v1/models/third").status_code == 204
        assert client.post("/v1/compare", json=ASK).json()["arms"][0]["model"] == "scenes-token"
        problem(client.post("/v1/answer", json={**ASK, "model": "third"}), "not-found")
        problem(client.delete("/v1/models/third"), "not-found")
        assert 'model="third"' not in client.get("/metrics").text


def test_a_model_is_replaced_under_its_name_without_a_failed_request(own: Live, runs: dict[str, Path]) -> None:
    before = own.service.models.get("scenes-token")
    statuses: list[int] = []

    def ask() -> None:
        with own.client() as client:
            statuses.append(client.post("/v1/answer", json={**ASK, "model": "scenes-token"}).status_code)

    with own.busy("scenes-token"):
        asked = threading.Thread(target=ask)
        asked.start()
        while not before.stats.queued:
            threading.Event().wait(0.005)
        with own.client() as client:
            assert load(client, "scenes-token", str(runs["scenes-token"])).status_code == 201
            assert own.service.models.get("scenes-token") is not before
            assert client.post("/v1/answer", json={**ASK, "model": "scenes-token"}).status_code == 200
        assert statuses == []
    asked.join()
    assert statuses == [200]


def test_loading_and_unloading_go_on_when_nobody_waits_for_them(own: Live, runs: dict[str, Path]) -> None:
    body = json.dumps({"name": "third", "folder": str(runs["scenes-token"]), "backend": "torch"})
    head = "POST /v1/models HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", own.port)) as connection:
        connection.sendall((head.format(len(body)) + body).encode())
        wait_for(lambda: "third" in own.service.models.loading)
    with own.client() as client:
        wait_for(lambda: "third" in [model.name for model in own.service.models.list()])
        with own.busy("third") as model:
            problem(client.delete("/v1/models/third", headers={"X-Deadline-Ms": "50"}), "expired")
            problem(client.get("/v1/models/third"), "not-found")
        wait_for(lambda: model._computer is None)


def test_the_number_of_models_is_bounded(own: Live, runs: dict[str, Path]) -> None:
    with own.client() as client:
        assert load(client, "third", str(runs["scenes-token"])).status_code == 201
        problem(load(client, "fourth", str(runs["scenes-token"])), "conflict")
        assert load(client, "third", str(runs["scenes-token"])).status_code == 201


@pytest.mark.parametrize("folder", ["/etc", "..", "../..", "no-such-run", "a\0b", "/", "x" * 300, "x/" * 400])
def test_only_folders_below_the_roots_are_opened(own: Live, folder: str) -> None:
    with own.client() as client:
        answer = load(client, "x", folder)
        rule = "must be a shipped checkpoint, or a folder below one of ARCHLAB_MODEL_ROOTS"
        assert problem(answer, "invalid")["errors"][0]["rule"] == rule


def test_a_shipped_checkpoint_is_loaded_by_its_name_whatever_the_roots(
    entries: tuple[str, ...], tmp_path: Path
) -> None:
    """So what was unloaded comes back, also in the container, whose only root is its volume of runs."""
    (tmp_path / "scenes-vljepa").mkdir()  # holds no run
    shipped = f"scenes-vljepa={WEIGHTS / 'scenes-vljepa'}"
    with (
        serving(models=(entries[0], shipped), backend="torch", model_roots=(tmp_path,)) as live,
        live.client() as client,
    ):
        before = client.get("/v1/models/scenes-vljepa").json()
        assert client.delete("/v1/models/scenes-vljepa").status_code == 204
        back = load(client, "scenes-vljepa", "scenes-vljepa")
        assert (back.status_code, back.json()) == (201, before)


def test_a_folder_that_holds_no_run_says_what_is_missing(own: Live, runs: dict[str, Path]) -> None:
    empty = runs["scenes-token"].parent / "empty"
    empty.mkdir(exist_ok=True)
    with own.client() as client:
        assert problem(load(client, "x", "empty"), "invalid")["errors"][0]["field"] == "folder"
        assert client.get("/readyz").status_code == 200


@pytest.mark.parametrize("name", ["", "a b", "../x", "-x", "x" * 65])
def test_names_of_models_are_plain(own: Live, name: str) -> None:
    with own.client() as client:
        assert problem(load(client, name, "x"), "invalid")["errors"][0]["field"] == "name"
