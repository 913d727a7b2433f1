"""Recall at k with ties, duplicates and chance stated, and the linear map that retrieval between two spaces needs.

Policy. A query is served when any right gallery item is among the first k. Right are all items of the query's group, so
that two images with one caption are both right for it; the strict variant, in which only the own item counts, is the
same call with `np.arange` as groups. Equal similarities are broken at random, and hits are the expectation over that:
a constant similarity matrix scores exactly chance. Shapes: Q queries, G gallery items, D and E features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from archlab.evaluate.vectors import cosine

KS = (1, 5, 10)
# Relative to the mean eigenvalue of the source covariance; the strongest is first, so that it wins ties.
_RIDGES = (10.0, 1.0, 0.1, 0.01, 0.001, 0.0001)


@dataclass(frozen=True)
class Ranks:
    """Where the best right item of each query stands; three counts (Q,) from which all rank statistics follow.

    Attributes:
        above: wrong items that score higher than the best right one.
        tied: wrong items that score the same.
        right: right items that score the same, itself included.
    """

    above: np.ndarray
    tied: np.ndarray
    right: np.ndarray

    def hits(self, k: int) -> np.ndarray:
        """Probability (Q,) that a right item is among the first `k`, ties broken at random."""
        miss = np.ones(len(self.above))
        for draw in range(k):
            left = self.tied + self.right - draw
            wrong = (self.tied - draw) / np.maximum(left, 1)  # 0 when only right items are left; `miss` then stays 0
            miss *= np.where(draw < k - self.above, wrong, 1.0)  # places above the tied block are lost already
        return 1 - miss

    def expected(self) -> np.ndarray:
        """Expected rank (Q,) of the first right item, from 1, ties broken at random."""
        return 1 + self.above + self.tied / (self.right + 1)


def ranks(similarity: np.ndarray, query_groups: np.ndarray, gallery_groups: np.ndarray) -> Ranks:
    """Rank the gallery for every query.

    Args:
        similarity: (Q, G), higher is better; transposed for the other direction.
        query_groups: group of each query (Q,). gallery_groups: group of each item (G,). Equal groups are right.

    Raises:
        ValueError: the shapes disagree, a similarity is NaN, or a query has no right item.
    """
    query_groups, gallery_groups = np.asarray(query_groups), np.asarray(gallery_groups)
    if similarity.shape != (len(query_groups), len(gallery_groups)):
        raise ValueError(
            f"similarity {similarity.shape}: must be (queries, gallery) = {(len(query_groups), len(gallery_groups))}"
        )
    if np.isnan(similarity).any():
        raise ValueError("similarity: holds NaN, which no rank is defined for")
    relevant = query_groups[:, None] == gallery_groups[None]  # (Q, G)
    if not relevant.any(1).all():
        raise ValueError(f"query {int(relevant.any(1).argmin())}: no gallery item is right for it; leave it out")
    best = np.where(relevant, similarity, -np.inf).max(1, keepdims=True)  # (Q, 1)
    same = similarity == best
    return Ranks(
        above=(similarity > best).sum(1), tied=(same & ~relevant).sum(1), right=(same & relevant).sum(1)
    )  # nothing right scores above the best right item


def retrieval_hits(
    similarity: np.ndarray, query_groups: np.ndarray, gallery_groups: np.ndarray, ks: Sequence[int] = KS
) -> tuple[dict[int, np.ndarray], dict[int, float]]:
    """Hits at every k, and chance.

    Args: as in `ranks`.

    Returns:
        k -> expected hits (Q,), whose mean is R@k; k -> R@k of a random ranking, duplicates counted.
    """
    order = ranks(similarity, query_groups, gallery_groups)
    random = ranks(np.zeros_like(similarity), query_groups, gallery_groups)
    return {k: order.hits(k) for k in ks}, {k: float(random.hits(k).mean()) for k in ks}


def median_rank(similarity: np.ndarray, query_groups: np.ndarray, gallery_groups: np.ndarray) -> float:
    """Median over the queries of the expected rank of the first right item, from 1; arguments as in `ranks`."""
    return float(np.median(ranks(similarity, query_groups, gallery_groups).expected()))


@dataclass(frozen=True)
class LinearMap:
    """Ridge regression from one space to another, both centred on the training means.

    Centring matters: the states of a language model share a large mean direction that would fill every cosine.

    Attributes:
        weight: (D, E).
        source_mean, target_mean: (D,) and (E,).
        ridge: the strength chosen on validation, relative to the mean eigenvalue of the source covariance.
    """

    weight: np.ndarray
    source_mean: np.ndarray
    target_mean: np.ndarray
    ridge: float

    @classmethod
    def fit(
        cls,
        source: np.ndarray,
        target: np.ndarray,
        source_validation: np.ndarray,
        target_validation: np.ndarray,
        ridges: Sequence[float] = _RIDGES,
    ) -> LinearMap:
        """Fit on training pairs; take the ridge with the best validation mean reciprocal rank, both directions.

        Args:
            source, source_validation: (n, D). target, target_validation: (n, E), row by row the pair of source.
            ridges: strengths to try; the first wins ties.
        """
        source_mean, target_mean = source.mean(0, dtype=np.float64), target.mean(0, dtype=np.float64)
        centred = source - source_mean
        eigenvalues, basis = np.linalg.eigh(centred.T @ centred / len(source))  # one decomposition serves all ridges
        eigenvalues = np.maximum(eigenvalues, 0)
        moments = basis.T @ (centred.T @ (target - target_mean)) / len(source)  # (D, E)
        scale = max(float(eigenvalues.mean()), np.finfo(np.float64).tiny)
        maps = [
            cls(basis @ (moments / (eigenvalues + ridge * scale)[:, None]), source_mean, target_mean, ridge)
            for ridge in ridges
        ]
        own = np.arange(len(source_validation))

        def reciprocal_rank(candidate: LinearMap) -> float:
            similarity = cosine(candidate(source_validation), candidate.centre_targets(target_validation))
            return sum(float((1 / ranks(matrix, own, own).expected()).mean()) for matrix in (similarity, similarity.T))

        return max(maps, key=reciprocal_rank)  # the first of equals

    def __call__(self, source: np.ndarray) -> np.ndarray:
        """Map (n, D) into the centred target space, (n, E)."""
        return (source - self.source_mean) @ self.weight

    def centre_targets(self, target: np.ndarray) -> np.ndarray:
        """Targets (n, E) in the space that mapped sources live in."""
        return target - self.target_mean
