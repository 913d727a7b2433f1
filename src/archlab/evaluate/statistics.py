"""Intervals and winners: percentile bootstrap over images, and over (seeds x images) when there are several seeds.

Every metric here is the mean of per-item values (hits, per-caption CIDEr-D), so that one resampling serves all.
Shapes: S seeds, n items, C clusters (images), R bootstrap replicates.

With one seed an interval covers the choice of test items only: it says nothing about another training run. With more,
seeds and images are resampled independently and crossed (Owen, "The pigeonhole bootstrap", 2007), which errs on the
wide side in the items; with a handful of seeds it still errs on the narrow side in the seeds, for which reason a winner
must also win under every single seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from archlab.errors import UserError

SEEDS_FOR_A_WINNER = 3
_SAMPLES_AT_LEAST = 100  # fewer replicates leave the 2.5 % tails to two or three draws
_WEIGHTS_AT_ONCE = 1 << 20  # bounds the memory of one chunk of resampling weights
UNDECIDED = "undecided"


@dataclass(frozen=True)
class Score:
    """A metric with its interval.

    Attributes:
        value: mean over items and seeds, in `unit`.
        low, high: ends of the interval.
        n: number of items.
        seeds: number of seeds; with one the interval covers test items only.
        unit: "accuracy", "CIDEr-D", "recall", ...
        chance: score of guessing, where it is known.
    """

    value: float
    low: float
    high: float
    n: int
    seeds: int
    unit: str
    chance: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The form in `results.json`; without `chance` where it is not known."""
        known = {} if self.chance is None else {"chance": self.chance}
        return {
            "value": self.value, "low": self.low, "high": self.high,
            "n": self.n, "seeds": self.seeds, "unit": self.unit, **known,
        }  # fmt: skip


@dataclass(frozen=True)
class PairedDifference:
    """Second arm minus first arm on the same items and seeds.

    Attributes:
        difference: mean difference.
        low, high: ends of its interval.
        winner: name of the better arm, or "undecided".
        why: the reason, in words.
    """

    difference: float
    low: float
    high: float
    winner: str
    why: str

    def to_dict(self) -> dict[str, Any]:
        """The form in `results.json`."""
        return {
            "difference": self.difference, "low": self.low, "high": self.high, "winner": self.winner, "why": self.why,
        }  # fmt: skip


def score(
    values: np.ndarray,
    clusters: np.ndarray,
    *,
    samples: int,
    seed: int,
    unit: str,
    level: float = 0.95,
    chance: float | None = None,
) -> Score:
    """Mean of the items with a clustered percentile-bootstrap interval.

    Args:
        values: one value per seed and item, (S, n), or (n,) for one seed.
        clusters: id of the image of each item, (n,); items of one image are drawn together.
        samples: R, number of replicates.
        seed: of the resampling; the same seed gives the same interval.
        level: coverage of the interval.

    Raises:
        UserError: fewer than 100 samples.
        ValueError: the shapes disagree, there is no item, or a value is not finite.
    """
    values, clusters = _checked(values, clusters)
    low, high = _interval(values, clusters, samples, seed, level)
    return Score(float(values.mean()), low, high, values.shape[1], len(values), unit, chance)


def paired_difference(
    first: np.ndarray,
    second: np.ndarray,
    clusters: np.ndarray,
    *,
    samples: int,
    seed: int,
    level: float = 0.95,
    names: tuple[str, str] = ("token", "vljepa"),
) -> PairedDifference:
    """`second - first` item by item and seed by seed, and who wins; higher values are better.

    A winner needs three seeds or more, an interval that excludes zero, and the same sign under every seed.

    Args:
        first, second: values of the two arms on the same items under the same seeds, (S, n) or (n,).
        clusters, samples, seed, level: as in `score`.
        names: of the arms, for `winner`.
    """
    if np.shape(first) != np.shape(second):
        raise ValueError(
            f"paired values {np.shape(first)} and {np.shape(second)}: both arms need the same seeds and items"
        )
    values, clusters = _checked(np.asarray(second, float) - np.asarray(first, float), clusters)
    low, high = _interval(values, clusters, samples, seed, level)
    winner, why = _decide(values.mean(1), low, high, len(np.unique(clusters)), names)
    return PairedDifference(float(values.mean()), low, high, winner, why)


def _decide(per_seed: np.ndarray, low: float, high: float, images: int, names: tuple[str, str]) -> tuple[str, str]:
    if len(per_seed) < SEEDS_FOR_A_WINNER:
        return UNDECIDED, "one seed: no winner" if len(per_seed) == 1 else "two seeds: no winner"
    if images < 2:
        return UNDECIDED, "one image: no winner"
    if low <= 0 <= high:
        return UNDECIDED, "interval includes zero"
    if not (np.all(per_seed > 0) or np.all(per_seed < 0)):
        return UNDECIDED, "seeds disagree in sign"
    return names[int(low > 0)], "interval excludes zero and all seeds agree in sign"


def _checked(values: np.ndarray, clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, clusters = np.atleast_2d(np.asarray(values, dtype=np.float64)), np.asarray(clusters)
    if values.ndim != 2 or clusters.shape != values.shape[1:] or not values.size:
        raise ValueError(
            f"values {values.shape} and clusters {clusters.shape}: need (seeds, items) and (items,), not empty"
        )
    if not np.isfinite(values).all():
        raise ValueError("values: all must be finite; an item without a score would hide in the mean")
    return values, clusters


def replicates(sums: np.ndarray, sizes: np.ndarray, *, samples: int, seed: int) -> np.ndarray:
    """Bootstrap replicates of a mean, (R,): seeds and clusters are drawn independently, and crossed.

    The draws depend on the shapes and the seed alone: replicates of several metrics of the same seeds and clusters are
    paired, so that whatever is computed of them, replicate by replicate, has its interval.

    Args:
        sums: of the values of each cluster, (S, C).
        sizes: items of each cluster, (C,).

    Raises:
        UserError: fewer than 100 samples.
    """
    if samples < _SAMPLES_AT_LEAST:
        raise UserError(f"bootstrap_samples={samples}: must be at least {_SAMPLES_AT_LEAST}; 2000 is the default")
    rng = np.random.default_rng(seed)
    seed_shares = next(_weights(rng, len(sums), samples, chunk=samples)) / len(sums)  # (R, S)
    # A replicate's mean divides by its own number of items, since clusters bring different numbers of them.
    means = np.concatenate(
        [weights @ sums.T / (weights @ sizes)[:, None] for weights in _weights(rng, len(sizes), samples)]
    )  # (R, S)
    drawn: np.ndarray = (seed_shares * means).sum(1)
    return drawn


def _interval(values: np.ndarray, clusters: np.ndarray, samples: int, seed: int, level: float) -> tuple[float, float]:
    cluster = np.unique(clusters, return_inverse=True)[1]  # (n,)
    sizes = np.bincount(cluster).astype(np.float64)  # (C,)
    sums = np.stack([np.bincount(cluster, row) for row in values])  # (S, C)
    tail = (1 - level) / 2
    low, high = np.quantile(replicates(sums, sizes, samples=samples, seed=seed), [tail, 1 - tail])
    return float(low), float(high)


def _weights(rng: np.random.Generator, count: int, samples: int, chunk: int | None = None) -> Iterator[np.ndarray]:
    """How often each of `count` units is drawn in each replicate, float (<= chunk, count), until `samples` are out."""
    chunk = chunk or max(1, _WEIGHTS_AT_ONCE // count)
    for start in range(0, samples, chunk):
        rows = min(chunk, samples - start)
        draws = rng.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        yield np.bincount(draws.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float64)
