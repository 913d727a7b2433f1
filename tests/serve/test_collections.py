"""Promises of `/v1/collections`."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import numpy as np
import pytest
from tests.serve.live import Live, base64_of, picture, problem, serving, wait_for

from archlab.errors import UserError
from archlab.index.embedded import EmbeddedCollection, EmbeddedIndex
from archlab.index.filters import MOST_CONDITIONS, from_json
from archlab.index.protocol import CollectionSpec, Points
from archlab.serve import collections
from archlab.serve.auth import create_key
from archlab.serve.points import SearchRequest

COLOURS = ["red", "green", "blue", "black"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where a service of a test's own keeps its index."""
    return tmp_path / "index"


@pytest.fixture(scope="module")
def live(entries: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A service with an embedded index, in processes as by default."""
    place = str(tmp_path_factory.mktemp("served") / "index")
    with serving(models=entries, backend="torch", engines="process", index=place) as service:
        yield service


@pytest.fixture(autouse=True)
def _empty(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "live" in request.fixturenames:
        with request.getfixturevalue("live").client() as client:
            for collection in client.get("/v1/collections").json()["data"]:
                client.delete(f"/v1/collections/{collection['name']}")


@pytest.fixture
def pictures(client: httpx.Client) -> httpx.Client:
    """Four pictures in the collection `pictures`."""
    assert client.post("/v1/collections", json={"name": "pictures"}).status_code == 201
    points = [
        {
            "id": f"{colour}.png",
            "image": base64_of(picture(colour)),
            "metadata": {"colour": colour, "year": 1990 + at, "warm": colour == "red"},
        }
        for at, colour in enumerate(COLOURS)
    ]
    stored = client.put("/v1/collections/pictures/points", json={"points": points})
    assert stored.json() == {"upserted": 4}
    return client


def search(client: httpx.Client, body: dict[str, Any], name: str = "pictures") -> dict[str, Any]:
    response = client.post(f"/v1/collections/{name}/search", json=body)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def test_a_collection_is_of_the_default_model_and_says_so(client: httpx.Client, live: Live) -> None:
    made = client.post("/v1/collections", json={"name": "c", "query": "what is this?"})
    model = live.service.models.get("scenes-vljepa")
    assert made.json() == {
        "name": "c",
        "points": 0,
        "width": model.width,
        "distance": "cosine",
        "model": "scenes-vljepa",
        "model_name": "scenes-vljepa",
        "model_digest": model.digest,
        "query": "what is this?",
    }
    assert client.get("/v1/collections/c").json() == made.json()
    assert client.get("/v1/collections").json() == {"data": [made.json()]}


def test_an_image_is_found_by_itself_as_base64_and_as_a_file(pictures: httpx.Client) -> None:
    found = search(pictures, {"image": base64_of(picture("blue")), "k": 2})
    assert found["model"] == "scenes-vljepa"
    assert len(found["hits"]) == 2
    assert found["hits"][0]["id"] == "blue.png"
    assert found["hits"][0]["score"] == pytest.approx(1, abs=1e-4)
    assert found["hits"][0]["metadata"] == {"colour": "blue", "year": 1992, "warm": False}
    where = json.dumps({"field": "year", "gte": 1990})
    sent = pictures.post(
        "/v1/collections/pictures/search", data={"k": "2", "where": where}, files={"image": picture("blue")}
    )
    assert sent.json() == found


def test_a_text_is_near_what_embeddings_say_it_is_near(pictures: httpx.Client) -> None:
    vector = pictures.post("/v1/embeddings", json={"input": "a red circle"}).json()["data"][0]["embedding"]
    by_text = search(pictures, {"text": "a red circle"})
    by_vector = search(pictures, {"vector": vector, "model": "scenes-vljepa"})
    assert [hit["id"] for hit in by_text["hits"]] == [hit["id"] for hit in by_vector["hits"]]
    assert (by_text["model"], by_vector["model"]) == ("scenes-vljepa", None)
    assert len(by_text["hits"]) == 4


def test_a_search_of_the_embedded_index_waits_for_no_other_thread(
    place: Path, damaged: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its engine keeps Python's lock: another thread would cost two changes of thread and gain nothing."""
    with EmbeddedIndex(place) as index:
        index.create("c", CollectionSpec(width=2)).upsert(Points(["a"], np.ones((1, 2), np.float32), [{}]))
    with serving(ready=False, models=(damaged,), index=str(place)) as live, live.client() as client:
        assert client.get("/v1/collections/c").json()["points"] == 1
        monkeypatch.setattr(live.service.collections._threads, "submit", lambda *_: pytest.fail("another thread"))
        assert len(search(client, {"vector": [1, 0]}, "c")["hits"]) == 1


def test_filters_leave_only_what_meets_them(pictures: httpx.Client) -> None:
    where = {"and": [{"field": "year", "gte": 1991}, {"not": {"field": "colour", "in": ["blue"]}}]}
    assert {hit["id"] for hit in search(pictures, {"text": "x", "where": where})["hits"]} == {"green.png", "black.png"}
    warm = {"field": "warm", "equals": True}
    assert [hit["id"] for hit in search(pictures, {"text": "x", "where": warm})["hits"]] == ["red.png"]


def test_texts_images_and_vectors_may_be_upserted_together_and_replace_what_was_there(pictures: httpx.Client) -> None:
    width = pictures.get("/v1/collections/pictures").json()["width"]
    points = [
        {"id": "text", "text": "a blue square"},
        {"id": "vector", "vector": np.eye(width)[0].tolist(), "metadata": {"by": "hand"}},
        {"id": "red.png", "image": base64_of(picture("white")), "metadata": {"colour": "white"}},
    ]
    assert pictures.put("/v1/collections/pictures/points", json={"points": points}).json() == {"upserted": 3}
    assert pictures.get("/v1/collections/pictures").json()["points"] == 6
    assert search(pictures, {"text": "a blue square", "k": 1})["hits"][0]["id"] == "text"
    assert search(pictures, {"vector": np.eye(width)[0].tolist(), "k": 1})["hits"][0]["id"] == "vector"
    assert search(pictures, {"image": base64_of(picture("white")), "k": 1})["hits"][0]["id"] == "red.png"


def sent(client: httpx.Client, *files: tuple[str, bytes], **fields: str) -> httpx.Response:
    """Files upserted as a form."""
    return client.put("/v1/collections/pictures/points", files=[("image", file) for file in files], data=fields)


def test_files_of_a_form_are_upserted_under_their_names(pictures: httpx.Client) -> None:
    metadata = {"colour": "bright", "tags": ["new"]}
    files = ("white.png", picture("white")), ("red.png", picture("yellow", kind="JPEG"))
    assert sent(pictures, *files, metadata=json.dumps(metadata), model="scenes-vljepa").json() == {"upserted": 2}
    assert pictures.get("/v1/collections/pictures").json()["points"] == 5  # red.png was there
    for name, data in files:
        (hit,) = search(pictures, {"image": base64_of(data), "k": 1})["hits"]
        assert (hit["id"], hit["metadata"]) == (name, metadata)
        assert hit["score"] == pytest.approx(1, abs=1e-4)
    assert sent(pictures, ("plain.png", picture("grey"))).json() == {"upserted": 1}
    hits = search(pictures, {"image": base64_of(picture("grey"))})["hits"]
    assert {"id": "plain.png", "metadata": {}} in [{name: hit[name] for name in ("id", "metadata")} for hit in hits]


@pytest.mark.parametrize(
    ("files", "fields", "field", "rule"),
    [
        ([], {"metadata": "{}", "model": "scenes-vljepa"}, "image", "is missing"),
        ([("a.png", picture()), ("b.png", b"none")], {}, "image[1]", "none of"),
        ([("a.png", picture()), ("a.png", picture("blue"))], {}, "image", "'a.png' is there twice"),
        ([("a" * 513, picture())], {}, "image[0]", "a file name of 1 to 512 characters"),
        ([(None, base64_of(picture()).encode())], {}, "image[0]", "must be a file"),
        ([("a.png", picture())], {"metadata": "{"}, "metadata", "must be JSON"),
        ([("a.png", picture())], {"metadata": '{"_a": 1}'}, "metadata", "kept for 'archlab index'"),
        ([("a.png", picture())], {"metadata": "[]"}, "metadata", "dictionary"),
        ([("a.png", picture())], {"points": "[]"}, "points", "is unknown; the fields are image, metadata, model"),
        ([("a.png", picture())], {"model": "scenes-token"}, "model", "holds vectors of scenes-vljepa"),
    ],
)
def test_a_form_of_images_that_breaks_a_rule_stores_nothing_and_is_told_its_field(
    pictures: httpx.Client, files: list[Any], fields: dict[str, str], field: str, rule: str
) -> None:
    parts = [*(("image", file) for file in files), *((name, (None, value)) for name, value in fields.items())]
    answer = pictures.put("/v1/collections/pictures/points", files=parts)
    (error,) = answer.json()["errors"]
    assert error["field"] == field
    assert rule in error["rule"]
    assert pictures.get("/v1/collections/pictures").json()["points"] == 4


def test_the_document_shows_both_ways_to_upsert(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    content = paths["/v1/collections/{name}/points"]["put"]["requestBody"]["content"]
    form = content["multipart/form-data"]
    assert content["application/json"]["schema"] == {"$ref": "#/components/schemas/UpsertRequest"}
    assert form["schema"]["properties"].keys() == {"image", "metadata", "model"}
    assert form["schema"]["properties"]["image"]["items"] == {"type": "string", "format": "binary"}
    assert "image/png" in form["encoding"]["image"]["contentType"]


def test_points_are_deleted_by_id_and_by_condition(pictures: httpx.Client) -> None:
    def delete(**body: Any) -> Any:
        return pictures.post("/v1/collections/pictures/points/delete", json=body).json()

    assert delete(ids=["red.png", "nobody"]) == {"deleted": 1}
    assert delete(where={"field": "year", "lt": 1993}) == {"deleted": 2}
    assert delete(where={"field": "year", "lt": 1993}) == {"deleted": 0}
    assert [hit["id"] for hit in search(pictures, {"text": "x"})["hits"]] == ["black.png"]


def test_a_collection_that_is_dropped_amid_a_search_is_not_found(
    pictures: httpx.Client, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = live.service.collections._index
    assert index is not None
    dropped = index.opened("pictures")
    assert pictures.delete("/v1/collections/pictures").status_code == 204
    monkeypatch.setattr(index, "opened", lambda name: dropped)
    problem(pictures.post("/v1/collections/pictures/search", json={"text": "x"}), "not-found")


def test_a_dropped_collection_is_gone(pictures: httpx.Client, live: Live) -> None:
    assert pictures.delete("/v1/collections/pictures").status_code == 204
    problem(pictures.get("/v1/collections/pictures"), "not-found")
    assert live.service.collections.sizes == {}


def test_collections_outlive_the_service_and_are_those_of_the_command_line(
    entries: tuple[str, ...], place: Path, engines: str
) -> None:
    settings = {"models": entries[1:], "backend": "torch", "engines": engines, "index": str(place)}
    with serving(**settings) as live, live.client() as client:
        client.post("/v1/collections", json={"name": "c"})
        client.put("/v1/collections/c/points", json={"points": [{"id": "a", "text": "red"}]})
    with EmbeddedIndex(place) as index:
        assert index.open("c").count() == 1
    with serving(**settings) as live, live.client() as client:
        assert search(client, {"text": "red"}, "c")["hits"][0]["id"] == "a"


def test_notes_of_the_command_line_are_not_told(entries: tuple[str, ...], place: Path) -> None:
    with EmbeddedIndex(place) as index:
        index.create("c", CollectionSpec(width=2)).upsert(
            Points(["a"], np.ones((1, 2)), [{"_source": "/home/somebody", "colour": "red"}])
        )
    with serving(models=entries, backend="torch", index=str(place)) as live, live.client() as client:
        assert search(client, {"vector": [1, 0]}, "c")["hits"][0]["metadata"] == {"colour": "red"}


def test_vectors_of_your_own_need_no_model_and_take_no_texts(client: httpx.Client) -> None:
    made = client.post("/v1/collections", json={"name": "own", "width": 2, "distance": "euclidean"}).json()
    assert (made["model"], made["model_digest"], made["distance"]) == (None, "", "euclidean")
    points = [{"id": "a", "vector": [1, 0]}, {"id": "b", "vector": [0, 3]}]
    client.put("/v1/collections/own/points", json={"points": points})
    found = search(client, {"vector": [0, 1]}, "own")["hits"]
    assert [(hit["id"], round(hit["score"], 4)) for hit in found] == [("a", -1.4142), ("b", -2.0)]
    refused = problem(client.post("/v1/collections/own/search", json={"text": "red"}), "invalid")
    assert refused["errors"][0]["field"] == "vector"
    refused = problem(client.put("/v1/collections/own/points", json={"points": [{"id": "c", "text": "x"}]}), "invalid")
    assert refused["errors"][0]["pointer"] == "#/points/0/vector"
    refused = problem(client.put("/v1/collections/own/points", files={"image": ("a.png", picture())}), "invalid")
    assert refused["errors"][0]["pointer"] == "#/image/0"
    assert "must be a vector" in refused["errors"][0]["rule"]


def test_vectors_of_another_model_are_refused(pictures: httpx.Client, place: Path) -> None:
    refused = problem(
        pictures.post("/v1/collections/pictures/search", json={"text": "x", "model": "scenes-token"}), "invalid"
    )
    assert refused["errors"][0]["field"] == "model"
    assert "holds vectors of scenes-vljepa" in refused["detail"]
    problem(pictures.post("/v1/collections/pictures/search", json={"text": "x", "model": "nobody"}), "not-found")


def test_a_collection_whose_model_is_not_loaded_names_it(entries: tuple[str, ...], place: Path) -> None:
    with EmbeddedIndex(place) as index:
        index.create("old", CollectionSpec(width=2, model="f" * 64, model_name="runs/old"))
    with serving(models=entries, backend="torch", index=str(place)) as live, live.client() as client:
        assert client.get("/v1/collections/old").json()["model"] is None
        refused = problem(client.post("/v1/collections/old/search", json={"text": "x"}), "conflict")
        assert "holds vectors of 'runs/old' (ffffffffffff), which is not loaded" in refused["detail"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "named"),
    [
        ("POST", "", {"name": "pictures"}, 409, "'pictures': exists already"),
        ("POST", "", {"name": "../up"}, 422, "name"),
        ("POST", "", {"name": "a", "width": 3, "model": "scenes-vljepa"}, 422, "leave out width or model"),
        ("POST", "", {"name": "a", "model": "scenes-token"}, 422, "model"),
        ("POST", "", {"name": "a", "width": 0}, 422, "width"),
        ("GET", "/picture", None, 404, "did you mean 'pictures'"),
        ("DELETE", "/nobody", None, 404, "'nobody': does not exist"),
        ("PUT", "/nobody/points", {"points": [{"id": "a", "text": "x"}]}, 404, "'nobody': does not exist"),
        ("PUT", "/pictures/points", {"points": []}, 422, "points"),
        (
            "PUT",
            "/pictures/points",
            {"points": [{"id": "a"}]},
            422,
            "points[0]: must have one of text, image and vector",
        ),
        (
            "PUT",
            "/pictures/points",
            {"points": [{"id": "a", "text": "x", "vector": [1]}]},
            422,
            "points[0]: must have one",
        ),
        ("PUT", "/pictures/points", {"points": [{"id": "", "text": "x"}]}, 422, "points[0].id"),
        ("PUT", "/pictures/points", {"points": [{"id": "a", "vector": [1, 2]}]}, 422, "points[0].vector: must have 16"),
        ("PUT", "/pictures/points", {"points": [{"id": "a", "vector": [0] * 16}]}, 422, "length zero"),
        ("PUT", "/pictures/points", {"points": [{"id": "a", "vector": [1e300] * 16}]}, 422, "points[0].vector[0]"),
        ("PUT", "/pictures/points", {"points": [{"id": "a", "image": "%%"}]}, 422, "points[0].image"),
        (
            "PUT",
            "/pictures/points",
            {"points": [{"id": "a", "text": "x", "metadata": {"a": {"deep": 1}}}]},
            422,
            "points[0].metadata",
        ),
        (
            "PUT",
            "/pictures/points",
            {"points": [{"id": "a", "text": "x", "metadata": {"_source": "x"}}]},
            422,
            "names with an underscore in front",
        ),
        (
            "PUT",
            "/pictures/points",
            {"points": [{"id": "a", "text": "x", "metadata": {"a": "x" * 40_000}}]},
            422,
            "points[0].metadata: 40008 bytes of metadata as JSON: must be at most 40000",
        ),
        ("POST", "/pictures/search", {}, 422, "must have one of text, image and vector"),
        ("POST", "/pictures/search", {"text": "x", "vector": [1]}, 422, "must have one of text, image and vector"),
        ("POST", "/pictures/search", {"text": None}, 422, "text"),
        ("POST", "/pictures/search", {"text": "x", "k": 0}, 422, "k: must be"),
        ("POST", "/pictures/search", {"vector": [1, 2]}, 422, "vector: must have 16 numbers"),
        ("POST", "/pictures/search", {"text": "x", "where": {"field": "a"}}, 422, "where: filter on 'a'"),
        ("POST", "/pictures/search", {"text": "x", "where": []}, 422, "where"),
        ("POST", "/pictures/points/delete", {}, 422, "must have either ids or where"),
        ("POST", "/pictures/points/delete", {"ids": ["a"], "where": {"field": "a", "exists": True}}, 422, "either"),
        ("POST", "/pictures/points/delete", {"ids": []}, 422, "ids"),
    ],
)
def test_what_cannot_be_is_refused_with_its_field(
    pictures: httpx.Client, method: str, path: str, body: Any, status: int, named: str
) -> None:
    response = pictures.request(method, f"/v1/collections{path}", json=body)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert named in response.json()["detail"]
    assert pictures.get("/v1/collections/pictures").json()["points"] == 4


def test_changes_need_the_scope_write_and_searches_do_not(
    entries: tuple[str, ...], place: Path, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.json"
    reader = {"Authorization": f"Bearer {create_key(keys, 'reader', ['read'])}"}
    writer = {"Authorization": f"Bearer {create_key(keys, 'writer', ['read', 'write'])}"}
    with serving(models=entries, backend="torch", index=str(place), api_keys=keys) as live, live.client() as client:
        assert client.post("/v1/collections", json={"name": "c"}, headers=writer).status_code == 201
        point = {"points": [{"id": "a", "text": "x"}]}
        assert client.put("/v1/collections/c/points", json=point, headers=writer).status_code == 200
        assert client.post("/v1/collections/c/search", json={"text": "x"}, headers=reader).status_code == 200
        assert client.get("/v1/collections", headers=reader).status_code == 200
        for method, path, body in (
            ("POST", "", {"name": "d"}),
            ("PUT", "/c/points", point),
            ("POST", "/c/points/delete", {"ids": ["a"]}),
            ("DELETE", "/c", None),
        ):
            problem(client.request(method, f"/v1/collections{path}", json=body, headers=reader), "forbidden")
            problem(client.request(method, f"/v1/collections{path}", json=body), "unauthenticated")
        assert client.delete("/v1/collections/c", headers=writer).status_code == 204


def test_an_index_that_another_process_has_is_503_until_it_is_free(
    entries: tuple[str, ...], place: Path, engines: str
) -> None:
    other = EmbeddedIndex(place)
    settings = {"models": entries[:1], "backend": "torch", "engines": engines, "index": str(place)}
    with serving(**settings) as live, live.client() as client:
        response = client.get("/v1/collections")
        assert "is open elsewhere" in problem(response, "not-ready")["detail"]
        assert int(response.headers["retry-after"]) > 0
        assert client.get("/readyz").status_code == 200  # the models answer all the same
        metrics = client.get("/metrics").text
        assert 'archlab_index_failures_total{work="request"} 2.0' in metrics  # the first was at the start
        assert "archlab_index_seconds_count 2.0" in metrics
        other.close()
        wait_for(lambda: client.get("/v1/collections").status_code == 200)  # it is tried once a second
        assert client.get("/v1/collections").json() == {"data": []}


def test_an_index_that_cannot_be_opened_is_not_tried_by_every_request(
    tmp_path: Path, damaged: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[str] = []

    def refuse(place: str, **_: Any) -> Any:
        tries.append(place)
        raise UserError("it is no index")

    monkeypatch.setattr(collections, "open_index", refuse)
    monkeypatch.setattr(collections, "_AGAIN", 600.0)
    with serving(ready=False, models=(damaged,), index=str(tmp_path)) as live, live.client() as client:
        for _ in range(20):
            assert problem(client.get("/v1/collections"), "not-ready")["detail"] == "it is no index."
    assert tries == [str(tmp_path)]


def test_a_place_that_holds_no_index_is_503_and_no_fault_of_who_asks(entries: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with serving(models=entries, backend="torch", index=str(tmp_path)) as live, live.client() as client:
        assert "holds no index" in problem(client.get("/v1/collections"), "not-ready")["detail"]
        assert live.service._starting is not None
        wait_for(live.service._starting.done)
        assert live.service._starting.exception() is None  # it was told as one line


def test_a_damaged_collection_is_503_and_the_others_answer(place: Path, engines: str, damaged: str) -> None:
    with EmbeddedIndex(place) as index:
        for name in ("damaged", "whole"):
            index.create(name, CollectionSpec(width=2)).upsert(Points(["a"], np.ones((1, 2), np.float32), [{}]))
    (place / "damaged" / "collection.json").write_text("{")
    settings = {"models": (damaged,), "engines": engines, "index": str(place)}
    with serving(ready=False, **settings) as live, live.client() as client:
        detail = problem(client.get("/v1/collections/damaged"), "not-ready")["detail"]
        assert "collection.json cannot be read" in detail
        assert client.get("/v1/collections/whole").json()["points"] == 1


def test_metrics_tell_the_size_of_every_collection(pictures: httpx.Client) -> None:
    assert 'archlab_collection_points{collection="pictures"} 4.0' in pictures.get("/metrics").text


def test_a_service_that_is_never_asked_makes_no_index(place: Path) -> None:
    with serving(ready=False, models=(), backend="torch", index=str(place)) as live, live.client() as client:
        assert client.get("/healthz").status_code == 200
    assert not place.exists()


def test_a_collection_that_grows_gets_its_graph_while_it_is_served(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EmbeddedIndex.__init__.__kwdefaults__, "indexing_threshold", 10)
    with serving(ready=False, backend="torch", index=str(place)) as other, other.client() as client:
        client.post("/v1/collections", json={"name": "large", "width": 16})
        vectors = np.random.default_rng(0).standard_normal((1024, 16))
        for start in range(0, 1024, 256):
            points = [{"id": str(row), "vector": vectors[row].tolist()} for row in range(start, start + 256)]
            assert client.put("/v1/collections/large/points", json={"points": points}).status_code == 200
        index = other.service.collections._index
        assert index is not None
        wait_for(lambda: index.open("large").unoptimized() < 1024)
        hits = search(client, {"vector": vectors[7].tolist(), "k": 1}, "large")["hits"]
        assert [hit["id"] for hit in hits] == ["7"]
        assert client.get("/v1/collections/large").json()["points"] == 1024


def test_what_comes_while_a_graph_is_built_gets_the_next_one(
    entries: tuple[str, ...], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, build = threading.Event(), threading.Event(), EmbeddedCollection._build_graph

    def held(self: EmbeddedCollection, shard: Path) -> None:
        begun.set()
        assert go_on.wait(120)
        build(self, shard)

    monkeypatch.setattr(EmbeddedCollection, "_build_graph", held)
    monkeypatch.setitem(EmbeddedIndex.__init__.__kwdefaults__, "indexing_threshold", 10)
    with serving(models=entries, backend="torch", index=str(place)) as other, other.client() as client:
        client.post("/v1/collections", json={"name": "large", "width": 16})
        vectors = np.random.default_rng(0).standard_normal((1024, 16))
        for start in range(0, 1024, 256):
            if start == 512:
                assert begun.wait(120)
            points = [{"id": str(row), "vector": vectors[row].tolist()} for row in range(start, start + 256)]
            assert client.put("/v1/collections/large/points", json={"points": points}).status_code == 200
        go_on.set()
        index = other.service.collections._index
        assert index is not None
        wait_for(lambda: index.open("large").unoptimized() < 256)


def test_a_collection_that_is_dropped_amid_a_search_is_404(pictures: httpx.Client, live: Live) -> None:
    with ThreadPoolExecutor() as threads:
        with live.busy("scenes-vljepa") as model:
            asked = threads.submit(
                pictures.post, "/v1/collections/pictures/search", json={"text": "never asked before"}
            )
            wait_for(lambda: model.stats.queued == 1)
            assert pictures.delete("/v1/collections/pictures").status_code == 204
        problem(asked.result(), "not-found")


def test_the_examples_of_the_documentation_run_in_their_order(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]

    def examples(path: str, method: str) -> list[Any]:
        content = paths[path][method]["requestBody"]["content"]["application/json"]
        return [example["value"] for example in content["examples"].values()]

    for body in examples("/v1/collections", "post"):
        assert client.post("/v1/collections", json=body).status_code == 201
    for body in examples("/v1/collections/{name}/points", "put"):
        assert client.put("/v1/collections/pictures/points", json=body).status_code == 200
    for body in examples("/v1/collections/{name}/search", "post"):
        assert search(client, body)["hits"]
    for body in examples("/v1/collections/{name}/points/delete", "post"):
        assert client.post("/v1/collections/pictures/points/delete", json=body).status_code == 200


def test_the_schema_of_a_filter_takes_as_many_conditions_as_are_read() -> None:
    schema = SearchRequest.model_json_schema()["properties"]["where"]
    for parts, taken in ((MOST_CONDITIONS - 1, True), (MOST_CONDITIONS, False)):
        where = {"and": [{"field": "year", "gte": year} for year in range(parts)]}
        assert jsonschema.Draft202012Validator(schema).is_valid(where) == taken
        with nullcontext() if taken else pytest.raises(UserError, match=f"more than {MOST_CONDITIONS} conditions"):
            from_json(where)
