"""What every data source yields: examples that pair an image with a query and a target text.

An example carries all surface forms of its query and of its target. Training draws one form of each per visit (the
draw is fixed by the saved order, see `data.order`); evaluation uses form 0, the canonical one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np


@dataclass(frozen=True, slots=True)
class Example:
    """One image, one query, one target.

    Attributes:
        id: unique within the split and stable between runs.
        image: row of the image in its split.
        task: "vqa" (short answer) or "caption" (describe the image).
        kind: question type within the task ("colour", "count", "caption", ...); results are reported per kind.
        queries: surface forms of the query, the canonical one first.
        targets: surface forms of the target, the canonical one first.
        meaning: id of the target's meaning; two targets with the same id are paraphrases of each other.
    """

    id: str
    image: int
    task: str
    kind: str
    queries: Sequence[str]
    targets: Sequence[str]
    meaning: str


class Images(Protocol):
    """Random access to the images of a split, decoded on demand, so that a split need not fit in memory."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Rows `start:stop` as uint8 RGB, (n, H, W, 3). A NumPy array satisfies this protocol."""
        ...


@dataclass(frozen=True)
class Split:
    """One split of a data set.

    Attributes:
        name: "train", "validation", "test" or a named test split such as "test_combinations".
        images: uint8 RGB, all of one size.
        examples: in a fixed order.
        digest: hash of everything the split was made from; equal digests mean equal data.
        image_digest: hash of the images alone, the key under which their features are cached.
        candidates: per kind, the canonical answers that a discriminative read-out chooses from.
        canonical_meaning: meaning id of each canonical answer text in `candidates`.
        skipped: one line per input that was left out, when the caller chose to skip broken inputs.
    """

    name: str
    images: Images
    examples: Sequence[Example]
    digest: str
    image_digest: str
    candidates: dict[str, list[str]] = field(default_factory=dict)
    canonical_meaning: dict[str, str] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Dataset:
    """All splits of one source.

    Attributes:
        splits: at least "train", "validation" and "test".
        notes: what a reader of the results must know of the data, such as images that two splits share.
    """

    name: str
    splits: dict[str, Split]
    notes: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> Split:
        return self.splits[name]

    def digest(self) -> dict[str, str]:
        """The digest of every split, by split name."""
        return {name: split.digest for name, split in self.splits.items()}


def questions_of(split: Split) -> set[str]:
    """The questions that a split asks, each in its canonical form."""
    return {one.queries[0] for one in split.examples if one.task == "vqa"}
