"""Each backend, empty: what the protocol promises is tested on all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from qdrant_client import QdrantClient

from archlab.index.embedded import EmbeddedIndex
from archlab.index.exact import ExactIndex
from archlab.index.metadata import Metadata
from archlab.index.protocol import Collection, CollectionSpec, Points, VectorIndex
from archlab.index.server import ServerIndex, ServerSettings

BACKENDS = ("exact", "embedded", "server")


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[str], VectorIndex]]:
    """`opened(backend)`: a new index of that kind."""
    made: list[VectorIndex] = []

    def make(backend: str) -> VectorIndex:
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
