"""Search inside this process: Qdrant's own engine (qdrant-edge), one folder per collection, persistent.

    INDEX/lock                              held while an index is open: one process at a time
    INDEX/NAME/collection.json              the specification, and which shard is the current one
    INDEX/NAME/shard-ID/                    vectors, metadata, write-ahead log

A change is in the write-ahead log before the call returns, so it outlives the process, `kill -9` included; a power cut
may cost what came after the last flush (every 20,000 points, and when the index is closed).
"""

from __future__ import annotations

import dataclasses
import json
import secrets
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock, RLock
from typing import Any, Self

import filelock
import numpy as np
import qdrant_edge as edge

from archlab.children import Children
from archlab.config import build
from archlab.errors import UserError
from archlab.index import qdrant
from archlab.index.filters import Filter
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
from archlab.train.folder import write_text

INDEXING_THRESHOLD = 10_000
"""Kilobytes of vectors from which on `optimize` builds a graph; fewer are compared one by one as fast."""

_SPEC = "collection.json"
_AT_ONCE = 1000  # points in one entry of the write-ahead log
_FLUSH_EVERY = 20_000  # points: bounds the log, and what is replayed when a collection opens after a crash
_DISTANCES = {"cosine": edge.Distance.Cosine, "dot": edge.Distance.Dot, "euclidean": edge.Distance.Euclid}
_KINDS = {
    "keyword": edge.PayloadSchemaType.Keyword,
    "float": edge.PayloadSchemaType.Float,
    "bool": edge.PayloadSchemaType.Bool,
}


class EmbeddedIndex:
    """A `VectorIndex` in a folder.

    Args:
        folder: is made if it is missing.
        indexing_threshold: see `INDEXING_THRESHOLD`; for collections that are created.

    Raises:
        UserError: another process has it open, or it is no index.
    """

    def __init__(self, folder: Path, *, indexing_threshold: int = INDEXING_THRESHOLD) -> None:
        self.folder, self.indexing_threshold = folder, indexing_threshold
        _check_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # Not per thread: a service opens the index in one and closes it in another.
        self._file_lock = filelock.FileLock(folder / "lock", thread_local=False)
        try:
            self._file_lock.acquire(timeout=0)
        except filelock.Timeout:
            raise IndexUnavailable(
                f"index {folder}: is open elsewhere, in another process or in this one; close it there, or move it "
                f"to a Qdrant server with 'archlab index migrate {folder} URL', which many can use at once"
            ) from None
        self._open: dict[str, EmbeddedCollection] = {}
        self._lock = Lock()
        self._closed = False
        for leftover in folder.glob(".*.partial"):  # of a creation or a removal that was cut off
            shutil.rmtree(leftover, ignore_errors=True)

    def create(self, name: str, spec: CollectionSpec) -> Collection:
        with self._using():
            place = self.folder / checked_name(name)
            if place.exists():
                raise taken(name)
            partial = self.folder / f".{name}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            shard = _new_shard(partial)
            shard.mkdir(parents=True)
            with _engine(name):
                edge.EdgeShard.create(str(shard), _config(spec, self.indexing_threshold)).close()
            _write_spec(partial, spec, shard.name)
            partial.rename(place)
            self._open[name] = EmbeddedCollection(name, place, self.indexing_threshold)
            return self._open[name]

    def open(self, name: str) -> Collection:
        with self._using():
            if name not in self._open:
                if name not in self.names():
                    raise unknown(name, self.names())
                self._open[name] = EmbeddedCollection(name, self.folder / name, self.indexing_threshold)
            return self._open[name]

    def opened(self, name: str) -> Collection | None:
        return self._open.get(name)

    def names(self) -> list[str]:
        return sorted(path.parent.name for path in self.folder.glob(f"[!.]*/{_SPEC}"))

    def drop(self, name: str) -> None:
        collection = self.open(name)
        assert isinstance(collection, EmbeddedCollection)
        with self._using():
            collection.close()
            del self._open[name]
            partial = self.folder / f".{name}.partial"
            (self.folder / name).rename(partial)
            shutil.rmtree(partial)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            while self._open:
                self._open.popitem()[1].close()
            self._file_lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _using(self) -> Iterator[None]:
        """One thread at a time, and none once the folder may be another process's."""
        with self._lock:
            if self._closed:
                raise IndexUnavailable(f"index {self.folder}: was closed; open it again")
            yield


class EmbeddedCollection:
    """See `Collection`.

    The engine holds Python's global lock while it works. That does not matter for calls of milliseconds, but a graph
    takes minutes: `optimize` has another process build it on a copy, and takes over what changed meanwhile.
    """

    holds_lock = True

    def __init__(self, name: str, place: Path, indexing_threshold: int) -> None:
        self.name, self.place, self.indexing_threshold = name, place, indexing_threshold
        self.spec, shard = _read_spec(place)
        for other in place.glob("shard-*"):
            if other.name != shard:  # of an `optimize` that was cut off
                shutil.rmtree(other, ignore_errors=True)
        with _engine(name):
            self._shard: edge.EdgeShard | None = edge.EdgeShard.load(
                str(place / shard), _config(self.spec, indexing_threshold)
            )
        self._writes = RLock()
        self._optimizing = Lock()
        self._builders = Children()
        self._unflushed = 0
        self._since: list[edge.UpdateOperation] | None = None  # changes since the copy that is being optimised

    def upsert(self, points: Points) -> None:
        points = checked_points(points, self.spec)
        with self._writes:
            self._index_fields(points)
            for start in range(0, len(points), _AT_ONCE):
                rows = range(start, min(start + _AT_ONCE, len(points)))
                batch = [
                    edge.Point(
                        id=qdrant.point_id(points.ids[row]),
                        vector=points.vectors[row].tolist(),
                        payload=qdrant.payload(points.ids[row], points.metadata[row]),
                    )
                    for row in rows
                ]
                self._apply(edge.UpdateOperation.upsert_points(batch), len(batch))

    def delete(self, ids: Sequence[str]) -> int:
        with self._writes:
            found = self.fetch(ids).ids
            if found:
                self._apply(edge.UpdateOperation.delete_points([qdrant.point_id(name) for name in found]), len(found))
            return len(set(found))

    def delete_where(self, where: Filter) -> int:
        with self._writes:
            count = self.count(where)
            if count:
                self._apply(edge.UpdateOperation.delete_points_by_filter(qdrant.translate(where, _Words())), count)
            return count

    def count(self, where: Filter | None = None) -> int:
        with self._using() as shard:
            return shard.count(edge.CountRequest(exact=True, filter=_filter(where)))

    def search(self, vector: np.ndarray, k: int = 10, where: Filter | None = None) -> list[Hit]:
        query = edge.Query.Nearest(checked_query(vector, k, self.spec).tolist())
        with self._using() as shard:
            found = shard.query(edge.QueryRequest(limit=k, query=query, filter=_filter(where), with_payload=True))
        return qdrant.ranked(qdrant.hit(one, self.spec) for one in found)

    def fetch(self, ids: Sequence[str]) -> Points:
        asked: list[Any] = [qdrant.point_id(name) for name in ids]
        with self._using() as shard:
            found = shard.retrieve(asked, with_payload=True, with_vector=True)
        return qdrant.in_order(qdrant.gathered(found, self.spec.width), ids)

    def scan(self, size: int = 256, *, vectors: bool = True) -> Iterator[Points]:
        offset: Any = None
        while True:
            request = edge.ScrollRequest(offset=offset, limit=size, with_payload=True, with_vector=vectors)
            with self._using() as shard:
                found, offset = shard.scroll(request)
            if found:
                yield qdrant.gathered(found, self.spec.width if vectors else 0)
            if offset is None:
                return

    def unoptimized(self) -> int:
        with self._using() as shard:
            info = shard.info()
            return info.points_count - info.indexed_vectors_count

    def optimize(self) -> None:
        with self._optimizing:
            if self.unoptimized() * self.spec.width * 4 < self.indexing_threshold * 1024:
                return
            old, new = self.place / _read_spec(self.place)[1], _new_shard(self.place)
            try:
                with self._writes, self._using() as shard:
                    shard.flush()
                    shutil.copytree(old, new)
                    self._since = []
                self._build_graph(new)
                with self._writes:
                    with _engine(self.name):
                        shard = edge.EdgeShard.load(str(new))
                        for operation in self._since:
                            shard.update(operation)
                        shard.flush()
                    _write_spec(self.place, self.spec, new.name)
                    self._shard, self._unflushed = shard, 0  # searches under way end on the old one
            finally:
                with self._writes:
                    self._since = None
                for other in {old.name, new.name} - {_read_spec(self.place)[1]}:
                    shutil.rmtree(self.place / other, ignore_errors=True)

    def close(self) -> None:
        """Write what is pending; the collection is of no use afterwards. A graph that is being built is given up."""
        self._builders.end()
        with self._optimizing, self._writes:
            if self._shard is not None:
                self._shard.close()
                self._shard = None

    def _apply(self, operation: edge.UpdateOperation, points: int) -> None:
        with self._using() as shard:
            shard.update(operation)
            if self._since is not None:
                self._since.append(operation)
            self._unflushed += points
            if self._unflushed >= _FLUSH_EVERY:
                shard.flush()
                self._unflushed = 0

    def _index_fields(self, points: Points) -> None:
        with self._using() as shard:
            known = set(shard.info().payload_schema)
        for field, kind in qdrant.field_kinds(points.metadata).items():
            if known.isdisjoint({qdrant.path(field), f"metadata.{field}"}) and len(known) < qdrant.MOST_FIELDS:
                self._apply(edge.UpdateOperation.create_field_index(qdrant.path(field), _KINDS[kind]), 0)
                known.add(qdrant.path(field))

    @contextmanager
    def _using(self) -> Iterator[edge.EdgeShard]:
        shard = self._shard
        if shard is None:
            raise UnknownCollection(f"collection {self.name!r}: was closed or dropped; open it again")
        with _engine(self.name):
            yield shard

    def _build_graph(self, shard: Path) -> None:
        done = self._builders.run([sys.executable, "-P", str(Path(__file__).with_name("graph.py")), str(shard)])
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise IndexUnavailable(
                f"collection {self.name!r}: its graph could not be built ({reason}); nothing was changed"
            )


class _Words:
    """Conditions as qdrant-edge spells them."""

    def equals(self, path: str, value: str | bool) -> Any:
        # A plain bool would be taken for the number 0 or 1; one of NumPy's is no number.
        found: Any = np.bool_(value) if isinstance(value, bool) else value
        return edge.FieldCondition(path, match=edge.MatchValue(found))

    def among(self, path: str, values: list[str]) -> Any:
        return edge.FieldCondition(path, match=edge.MatchAny(values))

    def within(self, path: str, bounds: dict[str, float]) -> Any:
        return edge.FieldCondition(path, range=edge.RangeFloat(**bounds))

    def empty(self, path: str) -> Any:
        return edge.IsEmptyCondition(path)

    def all_of(self, parts: list[Any]) -> Any:
        return edge.Filter(must=parts)

    def any_of(self, parts: list[Any]) -> Any:
        return edge.Filter(should=parts)

    def none_of(self, parts: list[Any]) -> Any:
        return edge.Filter(must_not=parts)


def _config(spec: CollectionSpec, indexing_threshold: int) -> edge.EdgeConfig:
    return edge.EdgeConfig(
        vectors={"": edge.EdgeVectorParams(size=spec.width, distance=_DISTANCES[spec.distance])},
        optimizers=edge.EdgeOptimizersConfig(default_segment_number=1, indexing_threshold=indexing_threshold),
        max_search_threads=1,  # there is one segment to search; callers bring their own threads
    )


def _filter(where: Filter | None) -> edge.Filter | None:
    return None if where is None else qdrant.translate(where, _Words())


@contextmanager
def _engine(name: str) -> Iterator[None]:
    """The engine raises bare `Exception` for whatever fails, and, where it panics, not even that."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, OSError | UserError | KeyboardInterrupt | SystemExit | GeneratorExit):
            raise
        reason = " ".join(str(error).split())
        raise IndexUnavailable(
            f"collection {name!r}: the engine failed ({reason}); see to the disk, or restore a copy"
        ) from error


def _new_shard(place: Path) -> Path:
    """A folder that never was: what still writes to an old one must not meet it."""
    return place / f"shard-{secrets.token_hex(4)}"


def _write_spec(place: Path, spec: CollectionSpec, shard: str) -> None:
    write_text(
        place / _SPEC, json.dumps({"shard": shard, **dataclasses.asdict(spec)}, indent=2, ensure_ascii=False) + "\n"
    )


def _read_spec(place: Path) -> tuple[CollectionSpec, str]:
    try:
        raw = json.loads((place / _SPEC).read_text(encoding="utf-8"))
        shard = raw.pop("shard")
        return build(CollectionSpec, raw), shard
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UserError) as error:
        raise IndexUnavailable(
            f"collection {place}: {_SPEC} cannot be read ({error}); restore it, or remove the folder"
        ) from None


def _check_folder(folder: Path) -> None:
    """Refuse a folder of something else: an index makes and removes folders in it."""
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not _is_index(folder))):
        raise UserError(f"index {folder}: exists and holds no index; name another folder")


def _is_index(folder: Path) -> bool:
    return (folder / "lock").exists() or next(folder.glob(f"*/{_SPEC}"), None) is not None
