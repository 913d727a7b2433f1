"""The images of a source as a collection that mirrors it: what is new or changed is embedded, what is gone disappears.

Nothing is remembered beside the collection: each point carries the hash of its image, so the same command resumes what
was cut off and brings in line what has changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from archlab.data.images import DECODING, decode
from archlab.data.pairs.gallery import Picture, pictures
from archlab.data.pairs.rows import Problems
from archlab.errors import UserError
from archlab.index.embedder import Embedder
from archlab.index.filters import And, Equals, Exists, Not
from archlab.index.metadata import Metadata, checked_metadata
from archlab.index.protocol import Collection, CollectionSpec, Points, VectorIndex, same_model
from archlab.progress import track

SOURCE, DIGEST = "_source", "_digest"
"""Metadata of every image: where it comes from, and the hash of its bytes."""

BATCH = 64
_READERS = 4  # threads that read and decode; Pillow lets go of Python's global lock


@dataclass(frozen=True)
class Source:
    """The images of a folder or file.

    Attributes:
        name: the whole path, by which the points of the source are known.
        pictures: one or more; see `data.pairs.gallery.pictures`.
        problems: told about images that cannot be read; it knows the lines that could not.
    """

    place: Path
    name: str
    pictures: list[Picture]
    problems: Problems

    @classmethod
    def read(cls, place: Path, image_column: str | None = None) -> Source:
        """List the images; none is opened. See `data.pairs.gallery.pictures` for the arguments and errors."""
        problems = Problems(skip=True, root=place if place.is_dir() else place.parent)
        return cls(place, str(place.resolve()), pictures(place, problems, image_column=image_column), problems)


@dataclass
class Indexed:
    """What was done.

    Attributes:
        embedded: images that were new or changed.
        described: images of which only the metadata changed.
        unchanged: images that were there already.
        removed: images that are gone from the source.
        skipped: one line for each input that could not be read.
    """

    embedded: int = 0
    described: int = 0
    unchanged: int = 0
    removed: int = 0
    skipped: list[str] = field(default_factory=list)


def open_mirror(index: VectorIndex, name: str, source: Source, embedder: Embedder, query: str) -> Collection:
    """The collection that mirrors a source, made if it is missing.

    Raises:
        UserError: it exists with vectors of another model or query, or mirrors another source.
    """
    if name not in index.names():
        spec = CollectionSpec(width=embedder.width, model=embedder.digest, model_name=embedder.name, query=query)
        return index.create(name, spec)
    collection = index.open(name)
    same_model(collection, embedder.digest, embedder.name)
    if collection.spec.query != query:
        raise UserError(
            f"collection {name!r}: its images were asked {collection.spec.query!r}, not {query!r}; ask the same, or "
            f"name another with --collection"
        )
    if collection.count(And((Exists(SOURCE), Not(Equals(SOURCE, source.name))))):
        raise UserError(
            f"collection {name!r}: mirrors another folder than {source.place}; name another with --collection"
        )
    return collection


def index_images(source: Source, collection: Collection, embedder: Embedder, *, max_pixels: int) -> Indexed:
    """Bring a collection in line with the images of a source.

    Points that were written otherwise than by this function stay.

    Args:
        source: see `Source`.
        max_pixels: larger images are skipped.

    Raises:
        UserError: none of the images can be read.
    """
    found = source.pictures
    with track(f"index {source.place.name}", len(found)) as progress, ThreadPoolExecutor(_READERS) as readers:
        mirror = _Mirror(source, collection, embedder, max_pixels, readers)
        for start in range(0, len(found), BATCH):
            batch = found[start : start + BATCH]
            mirror.update(batch)
            progress.advance(len(batch))
    mirror.done.skipped = [line for _, line in source.problems.skipped]
    if not mirror.kept:
        raise UserError(f"{source.place}: none of its {len(found)} images can be read; {mirror.done.skipped[0]}")
    mirror.remove_the_rest()
    return mirror.done


class _Mirror:
    def __init__(
        self, source: Source, collection: Collection, embedder: Embedder, max_pixels: int, readers: ThreadPoolExecutor
    ) -> None:
        self.source, self.collection, self.embedder = source, collection, embedder
        self.max_pixels, self.readers = max_pixels, readers
        self.kept: set[str] = set()
        self.done = Indexed()

    def update(self, batch: Sequence[Picture]) -> None:
        """Embed the images of a batch that are new or changed, and write the metadata of the others if they changed."""
        stored = self.collection.fetch([picture.id for picture in batch])
        rows = {name: row for row, name in enumerate(stored.ids)}
        before = [stored.metadata[rows[picture.id]] if picture.id in rows else None for picture in batch]
        fresh: dict[str, tuple[np.ndarray, Metadata]] = {}
        described: dict[str, tuple[np.ndarray, Metadata]] = {}
        for picture, old, result in zip(batch, before, self.readers.map(self._read, batch, before), strict=True):
            if isinstance(result, UserError):
                self.source.problems.report("", picture.image.name, result)
                continue
            self.kept.add(picture.id)
            metadata, pixels = result
            if pixels is not None:
                fresh[picture.id] = pixels, metadata
            elif metadata != old:
                described[picture.id] = stored.vectors[rows[picture.id]], metadata
            else:
                self.done.unchanged += 1
        if fresh:
            vectors = self.embedder.images(
                np.stack([pixels for pixels, _ in fresh.values()]), self.collection.spec.query
            )
            self.collection.upsert(Points(list(fresh), vectors, [metadata for _, metadata in fresh.values()]))
        if described:
            vectors = np.stack([vector for vector, _ in described.values()])
            self.collection.upsert(Points(list(described), vectors, [metadata for _, metadata in described.values()]))
        self.done.embedded += len(fresh)
        self.done.described += len(described)

    def remove_the_rest(self) -> None:
        """Delete what came from this source and was not seen."""
        gone = [
            name
            for batch in self.collection.scan(1024, vectors=False)
            for name, metadata in zip(batch.ids, batch.metadata, strict=True)
            if metadata.get(SOURCE) == self.source.name and name not in self.kept
        ]
        for start in range(0, len(gone), BATCH):
            self.done.removed += self.collection.delete(gone[start : start + BATCH])

    def _read(self, picture: Picture, before: Metadata | None) -> tuple[Metadata, np.ndarray | None] | UserError:
        """The metadata of an image, and its pixels (H, W, 3) if its bytes are not those of `before`."""
        try:
            content = picture.image.read()
            digest = hashlib.sha256(DECODING.encode() + content).hexdigest()
            metadata = checked_metadata({**picture.said, SOURCE: self.source.name, DIGEST: digest})
            if before is not None and before.get(DIGEST) == digest:
                return metadata, None
            size, name = self.embedder.image_size, picture.image.name
            return metadata, decode(content, size, max_pixels=self.max_pixels, name=name)
        except UserError as error:
            return error
