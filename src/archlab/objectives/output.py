"""What every objective returns."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Output:
    """The result of one objective on one batch.

    Attributes:
        loss: the scalar to minimise.
        parts: named scalars that explain it, detached.
        embeddings: named embeddings (B, E) whose collapse can be watched, detached; empty without a joint space.
        weight: number of targets that the loss is the mean of, where batches differ in it.
    """

    loss: Tensor
    parts: dict[str, Tensor]
    embeddings: dict[str, Tensor] = field(default_factory=dict)
    weight: float = 1.0
