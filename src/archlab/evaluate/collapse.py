"""Is an embedding space alive? Spread, rank, alignment and uniformity, and a verdict in words.

Shapes: n embeddings of E dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from archlab.evaluate.vectors import cosine, unit

# Thresholds of the verdict. They tell gross failures apart; they are not significance levels.
_NO_SPREAD = 0.1  # of the spread of an isotropic cloud
_LOW_RANK = 0.1  # of the rank that the number of distinct rows allows
_LOW_ENCODER_RANK = 0.03  # lower, since patches of a simple world differ in few ways whatever the encoder
_FEWEST_DIRECTIONS = 3.0  # in which they must differ, however narrow the encoder
_NO_SIGNAL = 0.95  # of ln B

_SIDES = ("predicted", "target")
HEALTHY = "healthy"
"""What a verdict without a complaint begins with."""
NOT_ALIGNED = "not aligned"
"""What the complaint begins with that nothing has been learned so far."""

_RANKME_EPSILON = 1e-7

# (predictions flat, targets flat) -> verdict where the loss is at ln B
_AT_LN_B = {
    (True, True): (
        "collapsed: predictions and targets are constant and the loss is at ln B; likely a learning rate that is too"
        " high, or gradients that do not reach the target encoder"
    ),
    (False, True): (
        "collapsed targets: all texts get one embedding and the loss is at ln B; likely a broken target encoder, or a"
        " tokenizer that maps all texts to the same ids"
    ),
    (True, False): (
        "collapsed predictions: image and query are ignored and the loss is at ln B; likely uninformative features, or"
        " a fault in a mask"
    ),
    (False, False): (
        "not aligned: embeddings are spread but the loss is at ln B; likely too little training, or images and texts"
        " paired wrongly"
    ),
}


def spread(embeddings: np.ndarray) -> float:
    """Mean standard deviation per dimension of the normalised embeddings, times sqrt(E).

    1 for directions spread evenly over the sphere, 0 when all point the same way; SimSiam (arXiv 2011.10566, section
    4.1) watches the same quantity.
    """
    directions = unit(embeddings)
    return float(directions.std(0).mean() * math.sqrt(directions.shape[1]))


def effective_rank(matrix: np.ndarray) -> float:
    """exp of the entropy of the normalised singular values of (n, E): Roy and Vetterli, EUSIPCO 2007. 0 for zeros."""
    shares = _singular_shares(matrix)
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 0.0


def rankme(embeddings: np.ndarray) -> float:
    """RankMe (arXiv 2210.02885, equation 1) of raw embeddings (n, E), not centred: effective rank with an epsilon."""
    shares = _singular_shares(embeddings) + _RANKME_EPSILON
    return float(np.exp(-(shares * np.log(shares)).sum()))


def alignment(predicted: np.ndarray, target: np.ndarray) -> float:
    """Mean squared distance of normalised pairs, 0 to 4, lower is closer (Wang and Isola, arXiv 2005.10242)."""
    return float(((unit(predicted) - unit(target)) ** 2).sum(1).mean())


def uniformity(embeddings: np.ndarray) -> float:
    """log of the mean of exp(-2 d^2) over all pairs of normalised rows; 0 when collapsed, lower is more uniform.

    Wang and Isola, arXiv 2005.10242, section 4, with t = 2. Memory grows with n^2: pass a few thousand rows at most.

    Raises:
        ValueError: fewer than two rows.
    """
    if len(embeddings) < 2:
        raise ValueError(f"uniformity of {len(embeddings)} embedding(s): is defined over pairs; give two or more")
    cosines = cosine(embeddings, embeddings)[np.triu_indices(len(embeddings), k=1)]
    return float(np.log(np.exp(-2 * (2 - 2 * cosines)).mean()))


@dataclass(frozen=True)
class Diagnosis:
    """Collapse diagnostics of predicted and target embeddings.

    Attributes:
        deviation: standard deviation per dimension, mean over dimensions, of the predictions and of the targets.
        spread: the same of normalised embeddings, 0 to about 1.
        rank: effective rank of the centred normalised embeddings. rankme: of the raw ones.
        alignment, uniformity: Wang and Isola; uniformity of the predictions and of the targets.
        loss, log_batch: InfoNCE and ln B, its value when no pair can be told from another, in nats.
        allowed_rank: the rank that the number of different targets allows.
        verdict: what it looks like and the likely cause.
    """

    deviation: tuple[float, float]
    spread: tuple[float, float]
    rank: tuple[float, float]
    rankme: tuple[float, float]
    alignment: float
    uniformity: tuple[float, float]
    loss: float
    log_batch: float
    allowed_rank: float
    verdict: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values, (predicted, target) where there are two."""
        return asdict(self)

    def scalars(self) -> dict[str, float]:
        """Every number by itself (`spread_predicted`, `spread_target`, ...), for `verdict_of` to read."""
        numbers = {name: value for name, value in asdict(self).items() if name != "verdict"}
        pairs = {name: value for name, value in numbers.items() if isinstance(value, tuple)}
        sides = {f"{name}_{side}": value[i] for name, value in pairs.items() for i, side in enumerate(_SIDES)}
        return sides | {name: value for name, value in numbers.items() if name not in pairs}


def diagnose(predicted: np.ndarray, target: np.ndarray, loss: float, batch_size: int) -> Diagnosis:
    """Measure paired embeddings and say whether, and probably why, they collapsed.

    Args:
        predicted, target: (n, E) each, raw; row by row a pair.
        loss: InfoNCE in nats at batches of `batch_size`, averaged over both directions.
    """
    # Few distinct answers cannot span many dimensions: that is the data, not a collapse.
    distinct = len(np.unique(np.round(unit(target), 5), axis=0))
    found = Diagnosis(
        deviation=(float(predicted.std(0).mean()), float(target.std(0).mean())),
        spread=(spread(predicted), spread(target)),
        rank=(centred_rank(predicted), centred_rank(target)),
        rankme=(rankme(predicted), rankme(target)),
        alignment=alignment(predicted, target),
        uniformity=(uniformity(predicted), uniformity(target)),
        loss=loss,
        log_batch=math.log(batch_size),
        allowed_rank=max(min(distinct - 1, target.shape[1]), 1),
        verdict="",
    )
    return replace(found, verdict=verdict_of(found.scalars()))


def verdict_of(scalars: Mapping[str, float]) -> str:
    """The verdict on what `Diagnosis.scalars` returned."""
    spreads, ranks = ([scalars[f"{name}_{side}"] for side in _SIDES] for name in ("spread", "rank"))
    low_rank = [rank < _LOW_RANK * scalars["allowed_rank"] for rank in ranks]
    no_signal = scalars["loss"] >= _NO_SIGNAL * scalars["log_batch"]
    return _verdict((spreads[0], spreads[1]), (low_rank[0], low_rank[1]), no_signal)


def encoder_verdict(scalars: Mapping[str, float]) -> str:
    """The verdict on the numbers of `evaluate.monitor.watch_encoder`."""
    if scalars["spread"] < _NO_SPREAD:
        return (
            "collapsed features: all images get nearly the same states; likely targets that get a gradient and no"
            " regulariser, or a learning rate that is too high"
        )
    if scalars["rank"] < max(_FEWEST_DIRECTIONS, _LOW_ENCODER_RANK * scalars["allowed_rank"]):
        return (
            "dimensional collapse: the states of patches differ in few directions; likely images that are too alike or"
            " empty, or a regulariser that is too weak"
        )
    if scalars["loss"] >= _NO_SIGNAL * scalars["log_batch"]:
        return (
            "features of noise: no image is told from another once pixels are disturbed; likely too little training, or"
            " inputs that are not normalised"
        )
    return "healthy: images differ in many directions, and stay apart under noise"


def _verdict(spreads: tuple[float, float], low_rank: tuple[bool, bool], no_signal: bool) -> str:
    flat = (spreads[0] < _NO_SPREAD, spreads[1] < _NO_SPREAD)
    if no_signal:
        return _AT_LN_B[flat]
    if any(flat):
        return (
            "cone: embeddings are nearly parallel, yet the loss is below ln B, so the small differences still tell"
            " pairs apart; likely a large shared mean with a low temperature"
        )
    if any(low_rank):
        return (
            "dimensional collapse: few dimensions are used, though the loss is below ln B; likely a head that is too"
            " narrow, few distinct negatives, or too strong weight decay"
        )
    return "healthy: spread over many dimensions, and the loss is below ln B"


def centred_rank(embeddings: np.ndarray) -> float:
    """Effective rank of the normalised rows (n, E) about their mean; 0 where all are equal."""
    directions = unit(embeddings)
    centred = directions - directions.mean(0)
    # Rounding noise around a constant has full rank and no meaning.
    return effective_rank(centred) if np.abs(centred).max() > 1e-6 else 0.0


def _singular_shares(matrix: np.ndarray) -> np.ndarray:
    values = np.linalg.svd(np.asarray(matrix, dtype=np.float64), compute_uv=False)
    total = values.sum()
    return values / total if total > 0 else values
