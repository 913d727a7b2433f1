"""Intervals and winners: percentile bootstrap over images, and over (seeds x images) when there are several seeds.

Every metric here is the mean of per-item values (hits, per-caption CIDEr-D), so that one resampling serves all.
Shapes: S seeds, n items, C clusters (images), R bootstrap replicates.

With one seed an interval covers the choice of test items only: it says nothing about another training run. With more,
seeds and images are resampled independently and crossed (Owen, "The pigeonhole bootstrap", 2007), which errs on the
wide side in the items; with a handful of seeds it still errs on the narrow side in the seeds, for which reason a winner
must also win under every single seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


@dataclass(frozen=True)
class Term:
    """A mean score times a weight, of a sum of such.

    Attributes:
        weight: by which the mean is multiplied.
        values: one value per seed and item, (S, n), or (n,) for one seed.
        clusters: id of the image of each item, (n,).
        images: name of the set that these ids are of; equal ids of one set are one image.
    """

    weight: float
    values: np.ndarray
    clusters: np.ndarray
    images: str


@dataclass(frozen=True)
class Combination:
    """What a sum of terms came to.

    Attributes:
        per_seed: seed by seed, (S,); their mean is the estimate.
        drawn: replicates, (R,); see `percentiles`.
    """

    per_seed: np.ndarray
    drawn: np.ndarray


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
    return _crossed([[(1.0, sums, sizes)]], samples, seed)


def combine(terms: Sequence[Term], *, samples: int, seed: int) -> Combination:
    """A sum of mean scores times weights, such as a difference of arms, or its slope over levels.

    Every replicate draws seeds once for all terms, and images once for each set of images: terms of the same images
    share the draw, so that what these have in common cancels; terms of other images are drawn independently of them.

    Raises:
        UserError: fewer than 100 samples.
        ValueError: as of `score`; or the terms have different numbers of seeds.
    """
    of_images: dict[tuple[str, bytes], list[tuple[float, np.ndarray, np.ndarray]]] = {}
    per_seed = np.zeros(len(np.atleast_2d(terms[0].values)))
    for term in terms:
        values, clusters = _checked(term.values, term.clusters)
        if len(values) != len(per_seed):
            raise ValueError(f"{len(values)} seeds and {len(per_seed)}: all terms need the same seeds")
        per_seed += term.weight * values.mean(1)
        drawn = term.images, np.unique(clusters).tobytes()
        of_images.setdefault(drawn, []).append((term.weight, *_sums(values, clusters)))
    return Combination(per_seed, _crossed(list(of_images.values()), samples, seed))


def _crossed(sets: Sequence[Sequence[tuple[float, np.ndarray, np.ndarray]]], samples: int, seed: int) -> np.ndarray:
    """Replicates (R,) of a sum of weighted means: for each set of clusters its (weight, sums (S, C), sizes (C,))."""
    if samples < _SAMPLES_AT_LEAST:
        raise UserError(f"bootstrap_samples={samples}: must be at least {_SAMPLES_AT_LEAST}; 2000 is the default")
    rng = np.random.default_rng(seed)
    seeds = len(sets[0][0][1])
    seed_shares = next(_weights(rng, seeds, samples, chunk=samples)) / seeds  # (R, S)
    means = np.zeros((samples, seeds))
    for terms in sets:
        done = 0
        for weights in _weights(rng, len(terms[0][2]), samples):
            chunk = means[done : done + len(weights)]
            done += len(weights)
            for weight, sums, sizes in terms:
                # A replicate's mean divides by its own number of items: clusters bring different numbers of them.
                chunk += weight * (weights @ sums.T / (weights @ sizes)[:, None])
    drawn: np.ndarray = (seed_shares * means).sum(1)
    return drawn


def _sums(values: np.ndarray, clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the values of each cluster (S, C), and their numbers (C,)."""
    cluster = np.unique(clusters, return_inverse=True)[1]  # (n,)
    return np.stack([np.bincount(cluster, row) for row in values]), np.bincount(cluster).astype(np.float64)


def _interval(values: np.ndarray, clusters: np.ndarray, samples: int, seed: int, level: float) -> tuple[float, float]:
    return percentiles(replicates(*_sums(values, clusters), samples=samples, seed=seed), level)


def percentiles(drawn: np.ndarray, level: float) -> tuple[float, float]:
    """The interval that holds the middle `level` of the replicates."""
    tail = (1 - level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high)


def _weights(rng: np.random.Generator, count: int, samples: int, chunk: int | None = None) -> Iterator[np.ndarray]:
    """How often each of `count` units is drawn in each replicate, float (<= chunk, count), until `samples` are out."""
    chunk = chunk or max(1, _WEIGHTS_AT_ONCE // count)
    for start in range(0, samples, chunk):
        rows = min(chunk, samples - start)
        draws = rng.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        yield np.bincount(draws.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float64)
