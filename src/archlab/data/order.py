"""The saved order: which example, which surface forms and which view at every step of training.

Both arms read the same order, so that they see the same images, queries and paraphrases in the same sequence. A shorter
run reads a prefix of a longer one's order (budget `equal-flops`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Order:
    """The draw of every step.

    Attributes:
        rows: indices into the training examples, int64 (steps, batch).
        query_forms, target_forms: large draws, reduced modulo the number of forms (steps, batch).
        views: view of the image, 0 the plain one (steps, batch).
    """

    rows: np.ndarray
    query_forms: np.ndarray
    target_forms: np.ndarray
    views: np.ndarray

    @classmethod
    def draw(cls, groups: Sequence[np.ndarray], steps: int, batch_size: int, seed: int, views: int = 0) -> Order:
        """Epoch-wise shuffles without replacement, cut into batches; the number of steps only sets where it ends.

        Args:
            groups: indices of the examples of each task. A batch holds one task: captions are several times longer
                than answers, and a mixed batch would spend most of its compute on padding.
            views: augmented views per image beside the plain one.
        """
        batches: list[np.ndarray] = []
        epoch = 0
        while len(batches) < steps:
            # Each epoch has its own generator, so that a longer order begins with the shorter one.
            generator = np.random.default_rng([seed, epoch])
            rows: list[np.ndarray] = []
            for group in groups:
                shuffled = generator.permutation(np.resize(group, max(len(group), batch_size)))
                rows.extend(shuffled[: len(shuffled) // batch_size * batch_size].reshape(-1, batch_size))
            rows = [rows[i] for i in generator.permutation(len(rows))]
            # The largest K is 32: a draw below 2**32 is uniform modulo K to within 1e-8.
            draws = generator.integers(0, 2**32, (len(rows), 3, batch_size))
            batches.extend(np.concatenate([row[None], draw]) for row, draw in zip(rows, draws, strict=True))
            epoch += 1
        table = np.stack(batches[:steps]).astype(np.int64)  # (steps, 4, batch)
        return cls(table[:, 0], table[:, 1], table[:, 2], table[:, 3] % (views + 1))

    def digest(self, steps: int | None = None) -> str:
        """Hash of the first `steps` steps, of all by default."""
        parts = (np.ascontiguousarray(part[:steps]).tobytes() for part in vars(self).values())
        return hashlib.sha256(b"".join(parts)).hexdigest()
