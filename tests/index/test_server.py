"""The server adapter against the wire: what it asks of a Qdrant server, and what it says when that does not answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from archlab.errors import UserError
from archlab.index.protocol import CollectionSpec, IndexUnavailable, Points, UnknownCollection
from archlab.index.server import API_KEY, FRESH, ServerCollection, ServerIndex, ServerSettings

SPEC = CollectionSpec(width=2, distance="dot", model="abc")


class Wire(ThreadingHTTPServer):
    """Answers as a server does on which nothing was created, or with one status; remembers what it was asked."""

    status = 200

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any, str | None]] = []
        wire = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                wire.asked.append((self.command, self.path, json.loads(body or "null"), self.headers.get("api-key")))
                result: Any = {"exists": False} if self.path.endswith("/exists") else True
                if self.path == "/collections":
                    result = {"collections": []}
                content = json.dumps({"result": result, "status": "ok", "time": 0.0}).encode()
                self.send_response(wire.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_PUT = do_POST = do_DELETE = answer

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def wire() -> Iterator[Wire]:
    server = Wire()
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
def test_a_collection_is_spread_and_replicated_as_configured_and_asked_for_with_the_key(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(API_KEY, "secret")
    index = ServerIndex(ServerSettings(url=wire.url, shards=6, replicas=3))
    with pytest.raises(UserError, match="does not exist"):  # this wire forgets what was created
        index.create("c", SPEC)
    assert {key for *_, key in wire.asked} == {"secret"}
    (body,) = [
        body for method, path, body, _ in wire.asked if (method, path.partition("?")[0]) == ("PUT", "/collections/c")
    ]
    assert (body["shard_number"], body["replication_factor"], body["write_consistency_factor"]) == (6, 3, 2)
    assert body["vectors"] == {"size": 2, "distance": "Dot"}
    assert body["metadata"]["archlab"]["model"] == "abc"


@pytest.mark.parametrize(("replicas", "majority"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3)])
def test_a_write_is_acknowledged_by_the_majority_of_the_copies_or_by_as_many_as_are_asked_for(
    replicas: int, majority: int
) -> None:
    assert ServerSettings(url="http://x", replicas=replicas).write_consistency == majority
    assert ServerSettings(url="http://x", replicas=replicas, consistency=replicas).write_consistency == replicas


def test_a_write_waits_until_the_server_has_it(wire: Wire) -> None:
    index = ServerIndex(ServerSettings(url=wire.url))
    collection = ServerCollection("c", SPEC, index)
    with pytest.raises(UserError):  # its answer is no result of an upsert
        collection.upsert(Points(["a"], np.ones((1, 2)), [{}]))
    assert wire.asked[0][:2] == ("PUT", "/collections/c/points?wait=true")


def test_a_server_out_of_reach_is_one_line_that_names_it() -> None:
    index = ServerIndex(ServerSettings(url="http://127.0.0.1:9", timeout=1))
    with pytest.raises(IndexUnavailable, match=r"Qdrant server http://127\.0\.0\.1:9: cannot be reached .*start it"):
        index.names()


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (401, UserError, "refuses the key; set the environment variable QDRANT_API_KEY"),
        (403, UserError, "refuses the key"),
        (500, IndexUnavailable, "status 500"),
        (429, IndexUnavailable, "Qdrant server"),
    ],
)
def test_what_a_server_refuses_is_one_line(wire: Wire, status: int, kind: type[UserError], message: str) -> None:
    wire.status = status
    with pytest.raises(kind, match=message) as caught:
        ServerIndex(ServerSettings(url=wire.url)).names()
    assert type(caught.value) is kind


def test_a_collection_that_another_service_has_dropped_is_unknown_and_forgotten(wire: Wire) -> None:
    """Else the one that they make next under that name would be taken for the old one."""
    index = ServerIndex(ServerSettings(url=wire.url), clock=lambda: 0.0)
    index._collections["c"] = ServerCollection("c", SPEC, index)
    wire.status = 404
    with pytest.raises(UnknownCollection, match="has it no longer"):
        index.open("c").count()
    assert index.opened("c") is None


def test_a_collection_that_another_service_has_replaced_is_the_new_one_after_some_seconds() -> None:
    """Two services on one server, each with an index of its own."""
    client, now = QdrantClient(":memory:"), 0.0
    ours = ServerIndex(ServerSettings(url="http://in-memory"), client, lambda: now)
    theirs = ServerIndex(ServerSettings(url="http://in-memory"), client)
    ours.create("c", SPEC)
    assert ours.open("c") is ours.open("c") is ours.opened("c")
    theirs.drop("c")
    theirs.create("c", CollectionSpec(width=3, model="def")).upsert(Points(["a"], np.ones((1, 3)), [{}]))
    now = FRESH
    assert ours.opened("c") is None
    found = ours.open("c")
    assert (found.spec.width, found.spec.model) == (3, "def")
    assert [hit.id for hit in found.search(np.ones(3))] == ["a"]
    theirs.drop("c")
    now = 2 * FRESH
    with pytest.raises(UnknownCollection):
        ours.open("c")
    theirs.create("c", SPEC)
    assert ours.open("c").spec == SPEC


def test_collections_of_others_are_neither_listed_nor_opened_nor_overwritten() -> None:
    client = QdrantClient(":memory:")
    client.create_collection("theirs", vectors_config=models.VectorParams(size=2, distance=models.Distance.DOT))
    index = ServerIndex(ServerSettings(url="http://in-memory"), client)
    assert index.names() == []
    with pytest.raises(UserError, match="'theirs': does not exist"):
        index.open("theirs")
    with pytest.raises(UserError, match="'theirs': exists already"):
        index.create("theirs", SPEC)
