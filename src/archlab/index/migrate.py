"""`archlab index migrate FROM TO`: every collection of one index into another, embedded to server or any other way.

Points that are there already and equal are not sent again, so the same command resumes what was cut off. A collection
counts as moved once the numbers of points agree and a sample of them is read back equal.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from rich.console import Console

from archlab.errors import UserError
from archlab.index.places import Spread, open_index
from archlab.index.protocol import Collection, Points, VectorIndex
from archlab.progress import track

BATCH = 256
SAMPLE = 256
_TOLERANCE = 1e-5  # of a coordinate, relative to the vector's longest: Qdrant brings vectors to unit length anew


@dataclass(frozen=True)
class Moved:
    """What became of one collection.

    Attributes:
        points: that it has, in both places.
        sent: of these, the ones that were not there yet.
        verified: of these, the ones that were read back and compared.
    """

    name: str
    points: int
    sent: int
    verified: int


def migrate_command(source: str, target: str, *, spread: Spread) -> None:
    """Copy all collections and print what was done; see `places.open_index` for the arguments.

    Raises:
        UserError: a place cannot be opened, or a collection is another one over there.
    """
    with open_index(source, create=False) as old, open_index(target, spread=spread) as new:
        for moved in migrate(old, new):
            Console().print(
                f"{moved.name}: {moved.points} points, {moved.sent} of them sent now; "
                f"{moved.verified} read back and equal",
                highlight=False,
            )


def migrate(source: VectorIndex, target: VectorIndex) -> list[Moved]:
    """Copy all collections, each with its specification; the source stays as it is.

    Raises:
        UserError: the source has none, or a collection of the same name is another one in the target.
    """
    names = source.names()
    if not names:
        raise UserError("the index to migrate from holds no collection; name the one that does")
    existing = set(target.names())
    pairs = []
    for name in names:
        old = source.open(name)
        new = target.open(name) if name in existing else target.create(name, old.spec)
        if new.spec != old.spec:
            raise UserError(f"collection {name!r}: exists in the target with another specification; drop it there")
        pairs.append((old, new))
    return [_copy(old, new) for old, new in pairs]


def _copy(old: Collection, new: Collection) -> Moved:
    total, sent = old.count(), 0
    with track(f"migrate {old.name}", total) as progress:
        for batch in old.scan(BATCH):
            missing = _different(batch, new.fetch(batch.ids))
            new.upsert(missing)
            sent += len(missing)
            progress.advance(len(batch))
    new.optimize()
    return Moved(old.name, total, sent, _verify(old, new))


def _verify(old: Collection, new: Collection) -> int:
    """Compare numbers and a sample; returns the size of the sample.

    Raises:
        UserError: they differ.
    """
    there, here = new.count(), old.count()
    if there != here:
        raise UserError(
            f"collection {old.name!r}: has {here} points, but {there} in the target; what differs was written by "
            f"somebody else: stop the writers and run this again, or drop it in the target"
        )
    names = [name for batch in old.scan(4 * BATCH, vectors=False) for name in batch.ids]
    sample = random.Random(0).sample(names, min(SAMPLE, len(names)))
    if wrong := _different(old.fetch(sample), new.fetch(sample)).ids:
        raise UserError(f"collection {old.name!r}: point {wrong[0]!r} differs in the target; run this again")
    return len(sample)


def _different(wanted: Points, found: Points) -> Points:
    """The points that are not there, or not equal."""
    rows = {name: row for row, name in enumerate(found.ids)}
    picked = []
    for row, name in enumerate(wanted.ids):
        other = rows.get(name)
        if (
            other is None
            or found.metadata[other] != wanted.metadata[row]
            or not np.allclose(
                found.vectors[other],
                wanted.vectors[row],
                rtol=0,
                atol=_TOLERANCE * max(float(np.abs(wanted.vectors[row]).max()), 1e-30),
            )
        ):
            picked.append(row)
    return Points([wanted.ids[row] for row in picked], wanted.vectors[picked], [wanted.metadata[row] for row in picked])
