"""Promises of loading: what serves goes on serving, and nothing outside the roots is touched."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.serve.live import Live, base64_of, picture, problem, serving

ASK = {"image": base64_of(picture()), "question": "what is this"}


@pytest.fixture
def own(runs: dict[str, Path], entries: tuple[str, ...]) -> Iterator[Live]:
    """A service of this test's own, which may load from where the token run lies."""
    root = runs["scenes-token"].parent
    with serving(models=entries, backend="torch", model_roots=(root,), max_models=3) as live:
        yield live


def load(client: httpx.Client, name: str, folder: str) -> httpx.Response:
    return client.post("/v1/models", json={"name": name, "folder": folder, "backend": "torch"})


def test_both_models_serve_while_a_third_loads(own: Live, runs: dict[str, Path]) -> None:
    done = threading.Event()
    failed: list[int] = []

    def ask(model: str) -> int:
        count = 0
        with own.client() as client:
            while not done.is_set() or count < 3:
                if (status := client.post("/v1/answer", json={**ASK, "model": model}).status_code) != 200:
                    failed.append(status)
                count += 1
        return count

    threads = [threading.Thread(target=ask, args=(model,)) for model in runs]
    for thread in threads:
        thread.start()
    with own.client() as client:
        answer = load(client, "third", runs["scenes-token"].name)
        assert client.get("/readyz").status_code == 200
    done.set()
    for thread in threads:
        thread.join()
    assert answer.status_code == 201, answer.text
    assert answer.json()["id"] == "third"
    assert failed == []


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


def test_the_number_of_models_is_bounded(own: Live, runs: dict[str, Path]) -> None:
    with own.client() as client:
        assert load(client, "third", str(runs["scenes-token"])).status_code == 201
        problem(load(client, "fourth", str(runs["scenes-token"])), "conflict")
        assert load(client, "third", str(runs["scenes-token"])).status_code == 201


@pytest.mark.parametrize("folder", ["/etc", "..", "../..", "no-such-run", "a\0b", "/"])
def test_only_folders_below_the_roots_are_opened(own: Live, folder: str) -> None:
    with own.client() as client:
        answer = load(client, "x", folder)
        assert problem(answer, "invalid")["errors"][0]["rule"] == "must be a folder below one of ARCHLAB_MODEL_ROOTS"


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
