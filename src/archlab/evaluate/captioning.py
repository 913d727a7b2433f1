"""Captions against references: CIDEr-D, exact match, and the nearest-training-caption control.

CIDEr-D: Vedantam, Zitnick, Parikh, "CIDEr: Consensus-based Image Description Evaluation" (arXiv 1411.5726), section 5.
Slot accuracy, which needs the world that the captions describe, is `archlab.data.scenes.parser.slot_accuracy`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np

from archlab.evaluate.vectors import cosine

_ORDERS = 4  # n-grams of one to four words
_SIGMA = 6.0  # of the length penalty, in words
_SCALE = 10.0
_WORD = re.compile(r"[^\W_]+")
_QUERIES_AT_ONCE = 1024

Gram = tuple[str, ...]


def words(text: str) -> list[str]:
    """Lower-cased runs of letters and digits; all else separates ("Dog's 2-tone" -> dog, s, 2, tone).

    Scripts without spaces come out as one word per run.
    """
    return _WORD.findall(unicodedata.normalize("NFC", text).lower())


def cider_d(
    candidates: Sequence[str], references: Sequence[Sequence[str]], corpus: Sequence[Sequence[str]] | None = None
) -> np.ndarray:
    """CIDEr-D of every candidate, from 0 to 10; the corpus score is the mean.

    Scores depend on the whole reference set through the document frequencies: compare them only within one set. In a
    set of one item every n-gram is in every document, carries no weight, and all scores are zero.

    Args:
        candidates: n captions.
        references: for each candidate one or more reference captions.
        corpus: the reference captions of each item of the set, for document frequencies, where candidates do not come
            one per item; by default `references`.

    Returns:
        (n,)

    Raises:
        ValueError: the lengths differ, or an item has no reference.
    """
    if len(candidates) != len(references):
        raise ValueError(f"{len(candidates)} candidates for {len(references)} items: there must be one for each")
    if missing := [item for item, texts in enumerate(references) if not texts]:
        raise ValueError(f"item {missing[0]}: has no reference caption; leave it out")
    vector = _vectors(tuple(map(tuple, references if corpus is None else corpus)))
    return np.array(
        [
            np.mean([_similarity(vector(candidate), vector(text)) for text in texts])
            for candidate, texts in zip(candidates, references, strict=True)
        ],
        dtype=np.float64,
    )


def exact_match(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """Whether the words of each candidate equal those of one of its references: bool (n,)."""
    return np.array(
        [
            any(words(candidate) == words(text) for text in texts)
            for candidate, texts in zip(candidates, references, strict=True)
        ],
        dtype=bool,
    )


def nearest_caption(queries: np.ndarray, train: np.ndarray) -> np.ndarray:
    """The control that copies: for each query embedding the training caption whose embedding has the highest cosine.

    A text decoder that does not beat it has not shown that it can say anything new.

    Args:
        queries: (n, E). train: (m, E).

    Returns:
        Rows of `train`, int64 (n,); the first one among equals.
    """
    parts = [
        cosine(queries[start : start + _QUERIES_AT_ONCE], train).argmax(1)
        for start in range(0, len(queries), _QUERIES_AT_ONCE)
    ]
    return np.concatenate([*parts, np.zeros(0, np.int64)]).astype(np.int64)


@dataclass(frozen=True)
class _Vector:
    """tf-idf weights per n-gram order, their norms, and the length in words."""

    weights: list[dict[Gram, float]]
    norms: list[float]
    length: int


@lru_cache(maxsize=2)  # a split is scored again under every control
def _vectors(corpus: tuple[tuple[str, ...], ...]) -> Callable[[str], _Vector]:
    """From texts to their weights, by the document frequencies of a corpus."""
    documents: Counter[Gram] = Counter()
    for texts in corpus:
        documents.update(set().union(*(_grams(words(text)) for text in texts)))
    log_items = np.log(max(len(corpus), 1))

    @cache  # paraphrases and frequent captions recur
    def vector(text: str) -> _Vector:
        return _tf_idf(words(text), documents, log_items)

    return vector


def _grams(tokens: list[str]) -> Counter[Gram]:
    return Counter(
        tuple(tokens[start : start + order])
        for order in range(1, _ORDERS + 1)
        for start in range(len(tokens) - order + 1)
    )


def _tf_idf(tokens: list[str], documents: Counter[Gram], log_items: float) -> _Vector:
    weights: list[dict[Gram, float]] = [{} for _ in range(_ORDERS)]
    for gram, count in _grams(tokens).items():
        # An n-gram of no reference counts as if it were in one: rarest, not infinite.
        weights[len(gram) - 1][gram] = count * (log_items - np.log(max(documents[gram], 1)))
    norms = [float(np.sqrt(sum(weight**2 for weight in order.values()))) for order in weights]
    return _Vector(weights, norms, len(tokens))


def _similarity(candidate: _Vector, reference: _Vector) -> float:
    """Equation 6 of the paper: clipped cosine, times the length penalty, averaged over the orders."""
    total = 0.0
    for mine, theirs, my_norm, their_norm in zip(
        candidate.weights, reference.weights, candidate.norms, reference.norms, strict=True
    ):
        if my_norm and their_norm:
            shared = mine.keys() & theirs.keys()
            total += sum(min(mine[gram], theirs[gram]) * theirs[gram] for gram in shared) / (my_norm * their_norm)
    penalty = np.exp(-((candidate.length - reference.length) ** 2) / (2 * _SIGMA**2))
    return float(_SCALE * penalty * total / _ORDERS)
