"""Search on a Qdrant server or cluster, for what one machine does not hold.

Collections are Qdrant's own, of the same names; their specification lies in Qdrant's metadata of the collection, and
those without one are not ours and are left alone.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import httpx
import numpy as np
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

from archlab.config import build
from archlab.errors import UserError
from archlab.index import qdrant
from archlab.index.filters import Filter
from archlab.index.places import Spread
from archlab.index.protocol import (
    Collection,
    CollectionSpec,
    Hit,
    IndexUnavailable,
    Points,
    UnknownCollection,
    checked_name,
    checked_points,
    checked_query,
    taken,
    unknown,
)
from archlab.rules import Named, Positive

FRESH = 5.0
"""Seconds for which a collection is taken to be what it was: others may drop it and make another of its name."""

API_KEY = "QDRANT_API_KEY"
"""Environment variable with the server's key, if it asks for one."""

_OURS = "archlab"
_AT_ONCE = 500  # points in one request: the server refuses bodies above 32 MB
_DISTANCES = {"cosine": models.Distance.COSINE, "dot": models.Distance.DOT, "euclidean": models.Distance.EUCLID}
_KINDS = {
    "keyword": models.PayloadSchemaType.KEYWORD,
    "float": models.PayloadSchemaType.FLOAT,
    "bool": models.PayloadSchemaType.BOOL,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerSettings(Spread):
    """Where a server is, and how collections that are created there are spread over its machines."""

    url: Named
    timeout: Positive = 10.0
    """Seconds for one request."""


class ServerIndex:
    """A `VectorIndex` on a Qdrant server.

    Args:
        client: instead of one that connects to `settings.url`.
        clock: seconds.
    """

    def __init__(
        self,
        settings: ServerSettings,
        client: QdrantClient | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings, self._clock = settings, clock
        self._client = client or QdrantClient(
            url=settings.url,
            api_key=os.environ.get(API_KEY),
            timeout=max(1, round(settings.timeout)),
            check_compatibility=False,  # it would ask the server before the first call, and warn instead of failing
        )
        self._collections: dict[str, ServerCollection] = {}

    def create(self, name: str, spec: CollectionSpec) -> Collection:
        with self._asking():
            if self._client.collection_exists(checked_name(name)):
                raise taken(name)
            self._client.create_collection(
                name,
                vectors_config=models.VectorParams(size=spec.width, distance=_DISTANCES[spec.distance]),
                shard_number=self.settings.shards,
                replication_factor=self.settings.replicas,
                write_consistency_factor=self.settings.write_consistency,
                metadata={_OURS: dataclasses.asdict(spec)},
            )
        return self.open(name)

    def open(self, name: str) -> Collection:
        if (found := self.opened(name)) is not None:
            return found
        self._collections.pop(name, None)
        with self._asking():
            info = self._client.get_collection(name) if self._client.collection_exists(name) else None
        if info is None or (spec := _spec(info)) is None:
            raise unknown(name, self.names())
        found = ServerCollection(name, spec, self, self._clock(), info.payload_schema)
        self._collections[name] = found
        return found

    def opened(self, name: str) -> Collection | None:
        """See `VectorIndex`; what others may have replaced since it was looked up is not open any more."""
        found = self._collections.get(name)
        return found if found is not None and self._clock() - found.seen < FRESH else None

    def names(self) -> list[str]:
        with self._asking():
            names = [one.name for one in self._client.get_collections().collections]
            return sorted(name for name in names if _spec(self._client.get_collection(name)) is not None)

    def drop(self, name: str) -> None:
        self.open(name)
        with self._asking():
            self._client.delete_collection(name)
        self._collections.pop(name, None)

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _asking(self) -> Iterator[QdrantClient]:
        """The client; what goes wrong on the way or on the server becomes one line."""
        try:
            yield self._client
        except (ResponseHandlingException, httpx.HTTPError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise IndexUnavailable(
                f"Qdrant server {self.settings.url}: cannot be reached ({reason}); start it"
            ) from None
        except UnexpectedResponse as error:
            if error.status_code in (401, 403):
                raise UserError(
                    f"Qdrant server {self.settings.url}: refuses the key; set the environment variable {API_KEY}"
                ) from None
            reason = " ".join(error.content.decode(errors="replace").split())[:200]
            if error.status_code == 404:
                raise UnknownCollection(f"Qdrant server {self.settings.url}: has it no longer ({reason})") from None
            raise IndexUnavailable(
                f"Qdrant server {self.settings.url}: status {error.status_code} ({reason})"
            ) from None
        except ApiException as error:
            raise IndexUnavailable(f"Qdrant server {self.settings.url}: failed ({error})") from None


class ServerCollection:
    """See `Collection`. The server optimises by itself.

    Args:
        seen: when it was looked up, in seconds of the index's clock.
        indexed: paths of the fields that the server has indexed.
    """

    holds_lock = False

    def __init__(
        self, name: str, spec: CollectionSpec, index: ServerIndex, seen: float = 0.0, indexed: Iterable[str] = ()
    ) -> None:
        self.name, self.spec, self.seen = name, spec, seen
        self._index, self._indexed = index, set(indexed)

    def upsert(self, points: Points) -> None:
        points = checked_points(points, self.spec)
        with self._asking() as client:
            for field, kind in qdrant.field_kinds(points.metadata).items():
                path = qdrant.path(field)
                if path not in self._indexed and len(self._indexed) < qdrant.MOST_FIELDS:
                    client.create_payload_index(self.name, path, _KINDS[kind])
                    self._indexed.add(path)
            for start in range(0, len(points), _AT_ONCE):
                rows = range(start, min(start + _AT_ONCE, len(points)))
                batch = [
                    models.PointStruct(
                        id=qdrant.point_id(points.ids[row]),
                        vector=points.vectors[row].tolist(),
                        payload=qdrant.payload(points.ids[row], points.metadata[row]),
                    )
                    for row in rows
                ]
                client.upsert(self.name, batch, wait=True)

    def delete(self, ids: Sequence[str]) -> int:
        found = set(self.fetch(ids).ids)
        if found:
            with self._asking() as client:
                client.delete(self.name, [qdrant.point_id(name) for name in found], wait=True)
        return len(found)

    def delete_where(self, where: Filter) -> int:
        count = self.count(where)
        if count:
            with self._asking() as client:
                client.delete(self.name, models.FilterSelector(filter=qdrant.translate(where, _Words())), wait=True)
        return count

    def count(self, where: Filter | None = None) -> int:
        with self._asking() as client:
            return client.count(self.name, _filter(where), exact=True).count

    def search(self, vector: np.ndarray, k: int = 10, where: Filter | None = None) -> list[Hit]:
        query = checked_query(vector, k, self.spec).tolist()
        with self._asking() as client:
            found = client.query_points(self.name, query, query_filter=_filter(where), limit=k, with_payload=True)
        return qdrant.ranked(qdrant.hit(one, self.spec) for one in found.points)

    def fetch(self, ids: Sequence[str]) -> Points:
        asked = [qdrant.point_id(name) for name in ids]
        with self._asking() as client:
            found = client.retrieve(self.name, asked, with_payload=True, with_vectors=True)
        return qdrant.in_order(qdrant.gathered(found, self.spec.width), ids)

    def scan(self, size: int = 256, *, vectors: bool = True) -> Iterator[Points]:
        offset: Any = None
        while True:
            with self._asking() as client:
                found, offset = client.scroll(
                    self.name, limit=size, offset=offset, with_payload=True, with_vectors=vectors
                )
            if found:
                yield qdrant.gathered(found, self.spec.width if vectors else 0)
            if offset is None:
                return

    def unoptimized(self) -> int:
        return 0

    def optimize(self) -> None:
        pass

    @contextmanager
    def _asking(self) -> Iterator[QdrantClient]:
        """The client; a collection that others have dropped is forgotten, since they may make another of that name."""
        try:
            with self._index._asking() as client:
                yield client
        except UnknownCollection:
            self._index._collections.pop(self.name, None)
            raise


class _Words:
    """Conditions as the client spells them."""

    def equals(self, path: str, value: str | bool) -> Any:
        return models.FieldCondition(key=path, match=models.MatchValue(value=value))

    def among(self, path: str, values: list[str]) -> Any:
        return models.FieldCondition(key=path, match=models.MatchAny(any=values))

    def within(self, path: str, bounds: dict[str, float]) -> Any:
        return models.FieldCondition(key=path, range=models.Range(**bounds))

    def empty(self, path: str) -> Any:
        return models.IsEmptyCondition(is_empty=models.PayloadField(key=path))

    def all_of(self, parts: list[Any]) -> Any:
        return models.Filter(must=parts)

    def any_of(self, parts: list[Any]) -> Any:
        return models.Filter(should=parts)

    def none_of(self, parts: list[Any]) -> Any:
        return models.Filter(must_not=parts)


def _spec(info: models.CollectionInfo) -> CollectionSpec | None:
    """What a collection was created as; None: by somebody else."""
    raw = (info.config.metadata or {}).get(_OURS)
    return None if raw is None else build(CollectionSpec, raw)


def _filter(where: Filter | None) -> models.Filter | None:
    return None if where is None else qdrant.translate(where, _Words())
