"""Each backend, empty: what the protocol promises is tested on all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from qdrant_client import QdrantClient

from archlab.index.embedded import EmbeddedIndex
from archlab.index.exact import ExactIndex
from archlab.index.metadata import Metadata
from archlab.index.process import IsolatedIndex
from archlab.index.protocol import Collection, CollectionSpec, Points, VectorIndex
from archlab.index.server import ServerIndex, ServerSettings

BACKENDS = ("exact", "embedded", "isolated", "server")


@pytest.fixture(scope="session")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Of an event loop in a thread of its own, as that of a service."""
    with asyncio.Runner() as runner:
        found = runner.get_loop()
        thread = Thread(target=found.run_forever)
        thread.start()
        yield found
        found.call_soon_threadsafe(found.stop)
        thread.join()


@pytest.fixture(scope="session")
def isolated(loop: asyncio.AbstractEventLoop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[IsolatedIndex]:
    """One process for all tests, as starting it takes a second."""
    with IsolatedIndex(tmp_path_factory.mktemp("isolated"), loop) as index:
        yield index


@pytest.fixture
def opened(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[[str], VectorIndex]]:
    """`opened(backend)`: an empty index of that kind."""
    made: list[VectorIndex] = []

    def make(backend: str) -> VectorIndex:
        if backend == "isolated":
            shared: IsolatedIndex = request.getfixturevalue("isolated")
            for name in shared.names():
                shared.drop(name)
            return shared
        if backend == "exact":
            made.append(ExactIndex())
        elif backend == "embedded":
            made.append(EmbeddedIndex(tmp_path / f"index-{len(made)}"))
        else:
            made.append(ServerIndex(ServerSettings(url="http://in-memory"), QdrantClient(":memory:")))
        return made[-1]

    yield make
    for index in made:
        index.close()


@pytest.fixture(params=BACKENDS)
def index(request: pytest.FixtureRequest, opened: Callable[[str], VectorIndex]) -> VectorIndex:
    return opened(request.param)


@pytest.fixture
def pets(index: VectorIndex) -> Collection:
    """Four points on a plane."""
    collection = index.create("pets", CollectionSpec(width=2))
    metadata: list[Metadata] = [
        {"kind": "cat", "age": 3, "tame": True, "tags": ["grey", "small"]},
        {"kind": "dog", "age": 3.5, "tame": True},
        {"kind": "wolf", "age": 7, "tame": False, "tags": []},
        {"kind": "Çıtçıt 🐈", "tame": False},
    ]
    vectors = np.array([[1, 0], [1, 1], [0, 1], [-1, 0]], np.float32)
    collection.upsert(Points(["a", "b", "c", "d"], vectors, metadata))
    return collection
