"""Per-item values of a cell, `items.npz`: intervals and paired differences are made of them, years after the run.

    index      JSON: where -> name of its images; and of every score its place, metric, start, and which clusters it has
    values     float16, of all scores one after another: hits are exact, CIDEr-D to a thousandth of itself
    clusters   int16, the images of the items; each step from the one before, as equal steps take little room
    ends       where each array of clusters ends

One array of each, and not one per score: the headers of hundreds of arrays would be most of the file.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from archlab.errors import UserError
from archlab.evaluate.measure import Measurement
from archlab.train.folder import atomic_write

FILE = "items.npz"

Measured = Mapping[str, tuple[str, Measurement]]
"""Where a run was asked -> the name of the images that it was asked on, and what was measured."""
Values = tuple[np.ndarray, np.ndarray, str]
"""Of a score: values and images of its items, (n,) each, and the name of the set of the images."""


def scores_of_items(measured: Measured) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """Where, metric, values and images of every score."""
    for where, (_, one) in measured.items():
        for metric, values in one.values.items():
            yield where, metric, values, one.clusters[metric]


def write_items(path: Path, measured: Measured) -> None:
    """Write the file, atomically."""
    known: dict[bytes, int] = {}
    scores, values, clusters, start = [], [np.zeros(0)], [np.zeros(0)], 0
    for where, metric, own, images in scores_of_items(measured):
        name = np.asarray(images, np.int64).tobytes()
        if name not in known:
            known[name] = len(known)
            clusters.append(np.diff(images, prepend=0))
        scores.append([where, metric, start, known[name]])
        values.append(own)
        start += len(own)
    index = {"images": {where: images for where, (images, _) in measured.items()}, "scores": scores}
    with atomic_write(path) as (partial,), partial.open("wb") as file:
        np.savez_compressed(
            file,
            index=np.frombuffer(json.dumps(index).encode(), np.uint8),
            values=np.concatenate(values).astype(np.float16),
            clusters=np.concatenate(clusters).astype(np.int16),
            ends=np.cumsum([len(one) for one in clusters]),
        )


@dataclass(frozen=True)
class StoredItems:
    """The file, read once something of it is asked for.

    Raises:
        UserError: it is missing or damaged.
    """

    path: Path

    def get(self, where: str, metric: str) -> Values | None:
        """The items of a score, None where none are kept."""
        return self._read.get((where, metric))

    @cached_property
    def _read(self) -> dict[tuple[str, str], Values]:
        try:
            with np.load(self.path) as file:
                index = json.loads(file["index"].tobytes())
                values, steps, ends = file["values"], file["clusters"].astype(np.int64), file["ends"]
        except (OSError, EOFError, ValueError, LookupError, zipfile.BadZipFile, zlib.error):
            raise UserError(f"cell {self.path}: is missing or damaged; remove its folder to run it again") from None
        images = [np.cumsum(one) for one in np.split(steps, ends)[1:]]
        return {
            (where, metric): (values[start : start + len(images[number])], images[number], index["images"][where])
            for where, metric, start, number in index["scores"]
        }
