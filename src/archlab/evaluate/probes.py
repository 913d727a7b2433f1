"""What frozen features know: linear and nearest-neighbour probes with per-item correctness on test.

The random-feature control is the same probe on the features of a randomly initialised encoder, the majority control is
`majority_probe`. Dense (per-patch) probes go through `Labelled.from_patches`. Shapes: n items, D features, N patches.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from archlab.evaluate.vectors import cosine

STRENGTHS = (0.001, 0.01, 0.1, 1.0)
TRAIN_LIMIT = 4000
_ITERATIONS = 200
_NEIGHBOURS = 20
_TEMPERATURE = 0.07  # of the neighbours' votes: Wu et al., arXiv 1805.01978, section 3.4
_QUERIES_AT_ONCE = 512


@dataclass(frozen=True)
class Labelled:
    """Features with what is to be read off them.

    Attributes:
        features: (n, D). labels: (n,), strings or integers.
        images: image of each item (n,), the clusters of its interval.
    """

    features: np.ndarray
    labels: np.ndarray
    images: np.ndarray

    def __post_init__(self) -> None:
        if not len(self.features) == len(self.labels) == len(self.images) > 0:
            raise ValueError(
                f"{len(self.features)} features, {len(self.labels)} labels, {len(self.images)} images: "
                "must be equally many and not empty"
            )

    @classmethod
    def from_patches(cls, features: np.ndarray, labels: np.ndarray, keep: np.ndarray) -> Labelled:
        """One item for each patch: a dense probe.

        Args:
            features: (images, N, D). labels: (images, N), for instance the majority shape in the patch.
            keep: bool (images, N), False for patches without a label or to leave background out.
        """
        return cls(features[keep], labels[keep], np.nonzero(keep)[0])

    def sample(self, limit: int, seed: int) -> Labelled:
        """At most `limit` items, drawn with `seed`, in their order."""
        if len(self.labels) <= limit:
            return self
        rows = np.sort(np.random.default_rng(seed).permutation(len(self.labels))[:limit])
        return Labelled(self.features[rows], self.labels[rows], self.images[rows])


def linear_probe(
    train: Labelled,
    validation: Labelled,
    test: Labelled,
    *,
    limit: int = TRAIN_LIMIT,
    seed: int = 0,
    strengths: Sequence[float] = STRENGTHS,
) -> np.ndarray:
    """Multinomial logistic regression on standardised features; the inverse penalty C is chosen on validation.

    Solver: L-BFGS of scikit-learn, which is fast at a few thousand items by a few hundred features. It stops at 200
    iterations, converged or not; a weakly penalised fit that needs more would not win on validation.

    Args:
        limit: at most so many training items, drawn with `seed`. strengths: the C tried; the smallest wins ties.

    Returns:
        bool (n_test,), whether each test item is right; labels that training never saw are wrong.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    train = train.sample(limit, seed)
    if len(np.unique(train.labels)) == 1:  # nothing to separate, and scikit-learn refuses
        return majority_probe(train, test)
    mean = train.features.mean(0, dtype=np.float64)
    deviation = train.features.std(0, dtype=np.float64)
    deviation[deviation < 1e-8] = 1.0  # a constant feature stays zero

    def standardise(features: np.ndarray) -> np.ndarray:
        return (features - mean) / deviation

    inputs, checks = standardise(train.features), standardise(validation.features)
    best, best_accuracy = None, -1.0
    for strength in sorted(strengths):
        model = LogisticRegression(C=strength, max_iter=_ITERATIONS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(inputs, train.labels)
        accuracy = float((model.predict(checks) == validation.labels).mean())
        if accuracy > best_accuracy:
            best, best_accuracy = model, accuracy
    assert best is not None
    return np.asarray(best.predict(standardise(test.features)) == test.labels)


def knn_probe(
    train: Labelled, test: Labelled, *, neighbours: int = _NEIGHBOURS, limit: int = TRAIN_LIMIT, seed: int = 0
) -> np.ndarray:
    """k nearest neighbours by cosine, votes weighted by exp(cosine / 0.07) (arXiv 1805.01978, section 3.4).

    Args:
        neighbours: k, cut to the number of training items. limit: at most so many training items, drawn with `seed`.

    Returns:
        bool (n_test,), whether each test item is right; equal votes go to the first label in sorted order.
    """
    train = train.sample(limit, seed)
    classes, votes_for = np.unique(train.labels, return_inverse=True)
    neighbours = min(neighbours, len(train.labels))
    right = []
    for start in range(0, len(test.labels), _QUERIES_AT_ONCE):
        similarity = cosine(test.features[start : start + _QUERIES_AT_ONCE], train.features)  # (q, n)
        near = np.argpartition(-similarity, neighbours - 1, axis=1)[:, :neighbours]  # (q, k)
        # Relative to the nearest, so that exp cannot overflow; the vote is the same.
        closeness = np.take_along_axis(similarity, near, 1)
        weights = np.exp((closeness - closeness.max(1, keepdims=True)) / _TEMPERATURE)
        votes = np.zeros((len(similarity), len(classes)))
        np.add.at(votes, (np.arange(len(similarity))[:, None], votes_for[near]), weights)
        right.append(classes[votes.argmax(1)] == test.labels[start : start + _QUERIES_AT_ONCE])
    return np.concatenate(right)


def majority_probe(train: Labelled, test: Labelled) -> np.ndarray:
    """The control without features: bool (n_test,), whether the most frequent training label is right."""
    labels, counts = np.unique(train.labels, return_counts=True)
    return np.asarray(test.labels == labels[counts.argmax()])
