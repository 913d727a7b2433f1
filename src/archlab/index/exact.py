"""Exact search in NumPy, in memory: every vector is compared. The oracle of the other backends.

Shape legend: N points, E width of a vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Lock
from typing import Self

import numpy as np

from archlab.index.filters import Filter, matches
from archlab.index.metadata import Metadata
from archlab.index.protocol import (
    Collection,
    CollectionSpec,
    Hit,
    Points,
    checked_name,
    checked_points,
    checked_query,
    taken,
    unknown,
)


class ExactIndex:
    """A `VectorIndex` that is gone when the process ends."""

    def __init__(self) -> None:
        self._collections: dict[str, ExactCollection] = {}

    def create(self, name: str, spec: CollectionSpec) -> Collection:
        if checked_name(name) in self._collections:
            raise taken(name)
        self._collections[name] = ExactCollection(name, spec)
        return self._collections[name]

    def open(self, name: str) -> Collection:
        if name not in self._collections:
            raise unknown(name, self._collections)
        return self._collections[name]

    def opened(self, name: str) -> Collection | None:
        return self._collections.get(name)

    def names(self) -> list[str]:
        return sorted(self._collections)

    def drop(self, name: str) -> None:
        self.open(name)
        del self._collections[name]

    def close(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ExactCollection:
    """See `Collection`."""

    holds_lock = False

    def __init__(self, name: str, spec: CollectionSpec) -> None:
        self.name, self.spec = name, spec
        self._rows: dict[str, tuple[np.ndarray, Metadata]] = {}
        self._matrix: np.ndarray | None = None  # (N, E), made when it is needed
        self._lock = Lock()

    def upsert(self, points: Points) -> None:
        points = checked_points(points, self.spec)
        with self._lock:
            rows = zip(points.ids, points.vectors, points.metadata, strict=True)
            self._rows |= {name: (vector, metadata) for name, vector, metadata in rows}
            self._matrix = None

    def delete(self, ids: Sequence[str]) -> int:
        with self._lock:
            self._matrix = None
            return sum(self._rows.pop(name, None) is not None for name in ids)

    def delete_where(self, where: Filter) -> int:
        return self.delete([name for name, (_, metadata) in self._snapshot().items() if matches(where, metadata)])

    def count(self, where: Filter | None = None) -> int:
        rows = self._snapshot()
        return len(rows) if where is None else sum(matches(where, metadata) for _, metadata in rows.values())

    def search(self, vector: np.ndarray, k: int = 10, where: Filter | None = None) -> list[Hit]:
        query = checked_query(vector, k, self.spec)
        with self._lock:
            if self._matrix is None:
                vectors = [vector for vector, _ in self._rows.values()]
                self._matrix = np.array(vectors, np.float32).reshape(-1, self.spec.width)
            matrix, rows = self._matrix, list(self._rows.items())
        if where is not None:
            kept = [row for row, (_, (_, metadata)) in enumerate(rows) if matches(where, metadata)]
            matrix, rows = matrix[kept], [rows[row] for row in kept]
        scores = _scores(matrix, query, self.spec)  # (N,)
        least = np.partition(scores, len(scores) - k)[len(scores) - k] if k < len(scores) else -np.inf
        best = sorted(np.flatnonzero(scores >= least), key=lambda row: (-scores[row], rows[row][0]))
        return [Hit(rows[row][0], float(scores[row]), rows[row][1][1]) for row in best[:k]]

    def fetch(self, ids: Sequence[str]) -> Points:
        rows = self._snapshot()
        return self._points([name for name in ids if name in rows], rows)

    def scan(self, size: int = 256, *, vectors: bool = True) -> Iterator[Points]:
        rows = self._snapshot()
        names = sorted(rows)
        for start in range(0, len(names), size):
            found = self._points(names[start : start + size], rows)
            yield found if vectors else Points(found.ids, found.vectors[:, :0], found.metadata)

    def unoptimized(self) -> int:
        return 0  # comparing one by one is what it is for

    def optimize(self) -> None:
        pass

    def _snapshot(self) -> dict[str, tuple[np.ndarray, Metadata]]:
        with self._lock:
            return dict(self._rows)

    def _points(self, names: list[str], rows: dict[str, tuple[np.ndarray, Metadata]]) -> Points:
        vectors = np.array([rows[name][0] for name in names], np.float32).reshape(-1, self.spec.width)
        return Points(names, vectors, [rows[name][1] for name in names])


def _scores(matrix: np.ndarray, query: np.ndarray, spec: CollectionSpec) -> np.ndarray:
    if spec.distance == "euclidean":
        return -np.linalg.norm(matrix - query, axis=1)
    return matrix @ query  # vectors are at unit length where the distance is cosine
