"""What a vector index promises, whatever keeps it. Scores are higher for what is nearer, in every backend.

Shape legend: B points, E width of a vector.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol, Self

import numpy as np

from archlab.config import Section
from archlab.errors import UserError
from archlab.index.filters import Filter
from archlab.index.metadata import Metadata, checked_metadata
from archlab.rules import between, is_unicode

WIDEST = 65_536
MOST_HITS = 10_000
LONGEST_ID = 512
NAME = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""Of a collection, as a regular expression."""
LONGEST_VECTOR = 1e18
"""Of the products of longer ones, 32 bits hold not all."""


class IndexUnavailable(UserError):
    """The index cannot do it now: a server out of reach, a full disk. The same call may succeed later."""


class UnknownCollection(UserError):
    """There is no collection of that name."""


class TakenName(UserError):
    """There is a collection of that name already."""


@dataclass(frozen=True, kw_only=True)
class CollectionSpec(Section):
    """What a collection holds; settled when it is created.

    Attributes:
        width: E.
        distance: what makes two vectors near. "cosine" keeps them at unit length.
        model: digest of the model whose vectors these are; empty takes vectors of any origin.
        model_name: where that model was found.
        query: what the model is asked about every image; its vectors are answers to that.
    """

    width: Annotated[int, between(1, WIDEST)]
    distance: Literal["cosine", "dot", "euclidean"] = "cosine"
    model: str = ""
    model_name: str = ""
    query: str = ""


@dataclass(frozen=True)
class Points:
    """A batch of vectors with their names and metadata.

    Attributes:
        ids: B names, 1 to 512 characters each. Of equal ones in a batch the last counts.
        vectors: (B, E) float32.
        metadata: one mapping per point.
    """

    ids: Sequence[str]
    vectors: np.ndarray
    metadata: Sequence[Metadata]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Hit:
    """One result of a search.

    Attributes:
        score: cosine similarity, dot product, or minus the Euclidean distance.
    """

    id: str
    score: float
    metadata: Metadata


class Collection(Protocol):
    """Vectors of one width. Safe to call from several threads."""

    name: str
    spec: CollectionSpec
    holds_lock: bool
    """Whether a search keeps Python's global lock to its end, so that other threads could only wait for it."""

    def upsert(self, points: Points) -> None:
        """Insert points, or replace those of the same id. Once this returns they outlive the death of the process.

        Raises:
            UserError: a vector of another width, not finite, or of length zero where the distance is cosine; an id or
                metadata that cannot be kept. Nothing is stored then.
        """
        ...

    def delete(self, ids: Sequence[str]) -> int:
        """Remove points; unknown ids are no error. Returns how many were there."""
        ...

    def delete_where(self, where: Filter) -> int:
        """Remove the points that meet a condition. Returns how many."""
        ...

    def count(self, where: Filter | None = None) -> int:
        """The exact number of points, or of those that meet a condition."""
        ...

    def search(self, vector: np.ndarray, k: int = 10, where: Filter | None = None) -> list[Hit]:
        """The nearest points, best first, equal scores by id; fewer than `k` where there are no more.

        Args:
            vector: (E,).
            where: only points that meet this.
        """
        ...

    def fetch(self, ids: Sequence[str]) -> Points:
        """The points of these ids that are there, in the order of `ids`."""
        ...

    def scan(self, size: int = 256, *, vectors: bool = True) -> Iterator[Points]:
        """All points in batches, in an order that stays the same; without their vectors (B, 0) if not asked for."""
        ...

    def unoptimized(self) -> int:
        """How many points every search compares one by one, for want of `optimize`."""
        ...

    def optimize(self) -> None:
        """Make searches fast after many changes. Reads and writes go on meanwhile."""
        ...


class VectorIndex(Protocol):
    """Named collections. Use as a context manager, or close it."""

    def create(self, name: str, spec: CollectionSpec) -> Collection:
        """A new, empty collection.

        Raises:
            UserError: the name is no name; `TakenName` if it is taken.
        """
        ...

    def open(self, name: str) -> Collection:
        """A collection that exists.

        Raises:
            UnknownCollection: there is none of that name; the nearest is suggested.
        """
        ...

    def opened(self, name: str) -> Collection | None:
        """What `open` gives, where it was given before and need not be waited for; else None."""
        ...

    def names(self) -> list[str]:
        """The collections in order of their names."""
        ...

    def drop(self, name: str) -> None:
        """Remove a collection with all its points.

        Raises:
            UnknownCollection: there is none of that name.
        """
        ...

    def close(self) -> None:
        """Write what is pending and let go of the place."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def same_model(collection: Collection, digest: str, name: str) -> None:
    """Refuse vectors of another model than the collection's: they would be near each other for no reason.

    Args:
        digest: of the weights that the vectors come from.
        name: what the message calls them.

    Raises:
        UserError: they are not the collection's.
    """
    spec = collection.spec
    if spec.model and spec.model != digest:
        raise UserError(
            f"collection {collection.name!r}: holds vectors of {spec.model_name or 'a model'} "
            f"({spec.model[:12]}), not of {name} ({digest[:12]}); use that model, or a new collection"
        )


def checked_name(name: str) -> str:
    """The name of a collection, checked: it is a folder's name as well.

    Raises:
        UserError: it is none.
    """
    if not re.fullmatch(NAME, name):
        raise UserError(f"collection {name!r}: must be 1 to 64 letters, digits and . _ -, the first a letter or digit")
    return name


def unknown(name: str, names: Iterable[str]) -> UnknownCollection:
    """What to say of a collection that does not exist."""
    near = difflib.get_close_matches(name, sorted(names), n=1, cutoff=0.5)
    remedy = f"did you mean {near[0]!r}?" if near else "create it"
    return UnknownCollection(f"collection {name!r}: does not exist; {remedy}")


def taken(name: str) -> TakenName:
    """What to say of a collection that exists already."""
    return TakenName(f"collection {name!r}: exists already; drop it, or choose another name")


def checked_points(points: Points, spec: CollectionSpec) -> Points:
    """A batch as it is kept: vectors float32, metadata checked; see `Collection.upsert`."""
    ids = [_checked_id(name) for name in points.ids]
    vectors = checked_vectors(points.vectors, spec)
    if not len(ids) == len(vectors) == len(points.metadata):
        raise UserError(
            f"points: {len(ids)} ids, {len(vectors)} vectors and {len(points.metadata)} metadata; give as many of each"
        )
    metadata = [checked_metadata(one) for one in points.metadata]
    last = {name: row for row, name in enumerate(ids)}
    rows = list(last.values())
    return Points(list(last), vectors[rows], [metadata[row] for row in rows])


def checked_vectors(raw: np.ndarray | Sequence[np.ndarray], spec: CollectionSpec) -> np.ndarray:
    """Vectors (B, E) as float32, at unit length where the distance is cosine; see `Collection.upsert`."""
    try:
        with np.errstate(over="ignore"):
            vectors = np.asarray(raw, np.float32)
    except (TypeError, ValueError):
        raise UserError("vectors: must be rows of numbers, all of the same length") from None
    if vectors.size == 0 and vectors.ndim <= 2 and len(vectors) == 0:
        return np.empty((0, spec.width), np.float32)
    if vectors.ndim != 2 or vectors.shape[1] != spec.width:
        found = vectors.shape[-1] if vectors.ndim else "no"
        raise UserError(f"vector of {found} numbers: the collection holds vectors of {spec.width}")
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    if not (lengths <= LONGEST_VECTOR).all():  # NaN is not either
        raise UserError(
            f"vector: is longer than {LONGEST_VECTOR:g}, or holds a number that is not finite; leave it out"
        )
    if spec.distance != "cosine":
        return vectors
    if not (lengths > 1e-30).all():
        raise UserError("vector of length zero: has no direction, so it has no cosine; leave it out")
    lengths[np.abs(lengths - 1) < 1e-6] = 1  # at unit length already: written again, a vector stays the same to the bit
    return (vectors / lengths).astype(np.float32)


def checked_query(vector: np.ndarray, k: int, spec: CollectionSpec) -> np.ndarray:
    """The vector (E,) of a search as float32; see `Collection.search`."""
    if not 1 <= k <= MOST_HITS:
        raise UserError(f"k={k}: must lie between 1 and {MOST_HITS}")
    return checked_vectors([vector], spec)[0]


def _checked_id(name: object) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_ID:
        raise UserError(f"point id {name!r}: must be a text of 1 to {LONGEST_ID} characters")
    if not is_unicode(name):
        raise UserError(f"point id {name!r}: holds half a surrogate pair; it must be Unicode")
    return name
