"""Is an embedding space alive? Spread, rank, alignment and uniformity, and a verdict in words.

Shapes: n embeddings of E dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

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

Target = Literal["unguarded", "guarded", "frozen"]
"""What could keep the targets of a run apart. "unguarded": trained, by a distance to the predictions alone; "guarded":
trained, with negatives or a regulariser against collapse; "frozen": not trained."""

_UNGUARDED = (
    "a target that is trained with neither negatives nor a regulariser, so that nothing keeps texts apart; cure: "
    "vljepa.objective=info-nce, sigreg or vicreg, or freeze it by vljepa.target_learning_rate_scale=0"
)
_FROZEN = (
    "a frozen target encoder that never told texts apart; cure: other vljepa.target_weights, or train it by "
    "vljepa.target_learning_rate_scale=1 with an objective that has negatives or a regulariser"
)

# What it looks like -> the likely cause, where the target is trained and guarded or has no part in it.
_LIKELY = {
    "collapsed: predictions and targets are constant and the loss is at ln B": (
        "a learning rate that is too high; cure: lower optimizer.learning_rate"
    ),
    "collapsed targets: all texts get one embedding and the loss is at ln B": (
        "a learning rate that is too high for the target encoder, or a tokenizer that maps all texts to the same ids; "
        "cure: lower vljepa.target_learning_rate_scale, or mend the tokenizer"
    ),
    "collapsed predictions: image and query are ignored and the loss is at ln B": (
        "features that do not show what is asked, a fault in a mask, or a learning rate that is too high; cure: other "
        "encoder.weights where the probes of the frozen features are at chance, else lower optimizer.learning_rate"
    ),
    "not aligned: embeddings are spread but the loss is at ln B": (
        "a learning rate that is too high, too little training, or images and texts paired wrongly; cure: lower "
        "optimizer.learning_rate where the loss has stayed at its start, more optimizer.steps where it falls"
    ),
    "cone: embeddings are nearly parallel, yet the loss is below ln B: small differences still tell pairs apart": (
        "a large shared mean with a low temperature; cure: none is needed while the scores rise"
    ),
    "dimensional collapse: few dimensions are used, though the loss is below ln B": (
        "a head that is too narrow, few distinct negatives, or too strong weight decay; cure: raise vljepa.embedding "
        "or optimizer.batch_size, or lower optimizer.weight_decay"
    ),
}
_TOGETHER, _TARGETS, _PREDICTIONS, _NOT_ALIGNED, _CONE, _NARROW = _LIKELY


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
        verdict: what it looks like, and the likely cause and its cure.
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


def diagnose(
    predicted: np.ndarray, target: np.ndarray, loss: float, batch_size: int, kept: Target | None = None
) -> Diagnosis:
    """Measure paired embeddings and say whether, and probably why, they collapsed.

    Args:
        predicted, target: (n, E) each, raw; row by row a pair.
        loss: InfoNCE in nats at batches of `batch_size`, averaged over both directions.
        kept: see `verdict_of`.
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
    return replace(found, verdict=verdict_of(found.scalars(), kept))


def verdict_of(scalars: Mapping[str, float], kept: Target | None = None) -> str:
    """The verdict on what `Diagnosis.scalars` returned.

    Args:
        kept: what could keep the targets apart: the numbers alone do not tell one cause from another. None: not known,
            and no cause is named.
    """
    flat = [scalars[f"spread_{side}"] < _NO_SPREAD for side in _SIDES]
    narrow = [scalars[f"rank_{side}"] < _LOW_RANK * scalars["allowed_rank"] for side in _SIDES]
    if scalars["loss"] >= _NO_SIGNAL * scalars["log_batch"]:
        looks = {(True, True): _TOGETHER, (False, True): _TARGETS, (True, False): _PREDICTIONS}.get(
            (flat[0], flat[1]), _NOT_ALIGNED
        )
    elif any(flat):
        looks = _CONE
    elif any(narrow):
        looks = _NARROW
    else:
        return f"{HEALTHY}: spread over many dimensions, and the loss is below ln B"
    if kept is None:
        return looks
    likely = _LIKELY[looks]
    if kept == "unguarded" and looks != _PREDICTIONS:
        likely = _UNGUARDED
    elif kept == "frozen" and looks in (_TOGETHER, _TARGETS):
        likely = _FROZEN
    return f"{looks}; likely {likely}"


def encoder_verdict(scalars: Mapping[str, float], *, unguarded: bool) -> str:
    """The verdict on the numbers of `evaluate.monitor.watch_encoder`.

    Args:
        unguarded: it is trained towards states that get a gradient themselves, and by no regulariser.
    """
    alone = "targets that get a gradient and no regulariser; cure: jepa.target=ema"
    if scalars["spread"] < _NO_SPREAD:
        likely = alone if unguarded else "a learning rate that is too high; cure: lower optimizer.learning_rate"
        return f"collapsed features: all images get nearly the same states; likely {likely}"
    if scalars["rank"] < max(_FEWEST_DIRECTIONS, _LOW_ENCODER_RANK * scalars["allowed_rank"]):
        likely = alone if unguarded else "images that are too alike or empty, or a regulariser that is too weak"
        return f"dimensional collapse: the states of patches differ in few directions; likely {likely}"
    if scalars["loss"] >= _NO_SIGNAL * scalars["log_batch"]:
        return (
            "features of noise: no image is told from another once pixels are disturbed; likely too little training, or"
            " inputs that are not normalised"
        )
    return f"{HEALTHY}: images differ in many directions, and stay apart under noise"


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
