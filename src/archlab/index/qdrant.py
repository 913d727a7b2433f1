"""What the embedded engine and the server have in common: both are Qdrant, with the same points, filters and fields.

A point lies there as `{"id": our id, "metadata": {...}}` under a UUID made from our id, because Qdrant takes no texts
as ids. Fields of metadata are indexed when they are first seen: searches under conditions on others are far slower.
Those whose names begin with an underscore are notes of whoever wrote the point, rarely asked for, and not indexed.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np

from archlab.index.filters import And, Equals, Exists, Filter, In, Not, Or, Range
from archlab.index.metadata import Metadata, Scalar
from archlab.index.protocol import CollectionSpec, Hit, Points

Kind: TypeAlias = Literal["keyword", "float", "bool"]

MOST_FIELDS = 64
"""Fields of a collection that are indexed: a caller who invents names must not fill the memory."""

_NAMESPACE = uuid.UUID("6f1d3c1e-8a57-4b0e-9c62-5d0f7a1b2c3d")


class Vocabulary(Protocol):
    """How one of the two spells conditions."""

    def equals(self, path: str, value: str | bool) -> Any: ...

    def among(self, path: str, values: list[str]) -> Any: ...

    def within(self, path: str, bounds: dict[str, float]) -> Any: ...

    def empty(self, path: str) -> Any: ...

    def all_of(self, parts: list[Any]) -> Any: ...

    def any_of(self, parts: list[Any]) -> Any: ...

    def none_of(self, parts: list[Any]) -> Any: ...


def translate(where: Filter, words: Vocabulary) -> Any:
    """A filter in Qdrant's terms."""
    match where:
        case And(parts):
            return words.all_of([translate(part, words) for part in parts])
        case Or(parts):
            return words.any_of([translate(part, words) for part in parts])
        case Not(part):
            return words.none_of([translate(part, words)])
        case Equals(field, value):
            return words.all_of([_equals(path(field), value, words)])
        case In(field, values):
            texts = [value for value in values if isinstance(value, str)]
            others = [_equals(path(field), value, words) for value in values if not isinstance(value, str)]
            return words.any_of(others + ([words.among(path(field), texts)] if texts else []))
        case Range(field):
            return words.all_of([words.within(path(field), where.bounds)])
        case Exists(field):
            return words.none_of([words.empty(path(field))])


def path(field: str) -> str:
    """Where a field of metadata lies in a point."""
    return f'metadata."{field}"'


def point_id(name: str) -> str:
    """Qdrant's id of a point."""
    return str(uuid.uuid5(_NAMESPACE, name))


def payload(name: str, metadata: Metadata) -> dict[str, Any]:
    """What lies beside the vector of a point."""
    return {"id": name, "metadata": metadata}


def field_kinds(metadata: Iterable[Metadata]) -> dict[str, Kind]:
    """How each field that occurs is to be indexed; the first value of a field decides."""
    kinds: dict[str, Kind] = {}
    for one in metadata:
        for field, value in one.items():
            first = next(iter(value), None) if isinstance(value, list) else value
            if field not in kinds and first is not None and not field.startswith("_"):
                kinds[field] = "bool" if isinstance(first, bool) else "keyword" if isinstance(first, str) else "float"
    return kinds


def hit(found: Any, spec: CollectionSpec) -> Hit:
    """A scored point of either as ours; Qdrant's Euclidean score is the distance itself."""
    score = -found.score if spec.distance == "euclidean" else found.score
    payload = found.payload  # the embedded engine makes it anew whenever it is asked for
    return Hit(payload["id"], float(score), payload["metadata"])


def ranked(hits: Iterable[Hit]) -> list[Hit]:
    """Best first, equal scores by id."""
    return sorted(hits, key=lambda one: (-one.score, one.id))


def gathered(found: Sequence[Any], width: int) -> Points:
    """Records of either as ours, with vectors (B, `width`)."""
    vectors = np.array([one.vector if width else [] for one in found], np.float32).reshape(len(found), width)
    payloads = [one.payload for one in found]
    return Points([one["id"] for one in payloads], vectors, [one["metadata"] for one in payloads])


def in_order(points: Points, ids: Sequence[str]) -> Points:
    """The points in the order of `ids`, which may name more."""
    row = {name: number for number, name in enumerate(points.ids)}
    rows = [row[name] for name in ids if name in row]
    return Points([points.ids[one] for one in rows], points.vectors[rows], [points.metadata[one] for one in rows])


def _equals(where: str, value: Scalar, words: Vocabulary) -> Any:
    if isinstance(value, bool | str):
        return words.equals(where, value)
    return words.within(where, {"gte": value, "lte": value})
