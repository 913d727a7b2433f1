"""Discriminative VQA: candidate scores to credit, the majority control, and the confusion matrix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from archlab.evaluate.retrieval import ranks

OTHER = "(other)"


def length_normalised(log_probs: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Mean log-probability per token, which does not favour short candidates as the sum does.

    Args:
        log_probs: summed over the tokens of each candidate, (n, C).
        lengths: tokens of each candidate, [EOS] included, (C,).

    Raises:
        ValueError: a candidate has no token.
    """
    if np.min(lengths) < 1:
        raise ValueError(f"candidate {int(np.argmin(lengths))}: has no token; every candidate ends in [EOS]")
    return log_probs / lengths


def credit(scores: np.ndarray, candidates: Sequence[object], answers: Sequence[object]) -> np.ndarray:
    """Credit of answering with the best-scored candidate, from 0 to 1; its mean is the accuracy.

    Where several candidates share the best score one is drawn, and credit is the expectation: a constant scorer gets
    chance, not the frequency of whichever candidate happens to be listed first.

    Args:
        scores: (n, C), higher is better.
        candidates: label of each candidate (C,); several may carry one label.
        answers: true label of each item (n,); one that no candidate carries gets no credit.

    Raises:
        ValueError: a score is NaN.
    """
    if np.isnan(scores).any():
        raise ValueError("scores: hold NaN, which no best candidate is defined for")
    best = scores == scores.max(1, keepdims=True)  # (n, C)
    right = np.asarray(answers)[:, None] == np.asarray(candidates)[None]  # (n, C)
    return (best & right).sum(1) / best.sum(1)


def credit_among(k: int, scores: np.ndarray, candidates: Sequence[object], answers: Sequence[object]) -> np.ndarray:
    """Credit of naming the `k` best-scored candidates, from 0 to 1; the rest as in `credit`."""
    right, given = np.asarray(answers), np.asarray(candidates)
    known = np.isin(right, given)
    found = np.zeros(len(right))
    found[known] = ranks(scores[known], right[known], given).hits(k)
    return found


def rows_by_kind(kinds: Sequence[str]) -> dict[str, np.ndarray]:
    """Kind -> rows of its items, int64, kinds in alphabetical order."""
    array = np.asarray(kinds)
    return {str(kind): np.flatnonzero(array == kind) for kind in np.unique(array)}


def majority_answers(train_kinds: Sequence[str], train_answers: Sequence[str], kinds: Sequence[str]) -> list[str]:
    """The majority control: for every item the most frequent TRAINING answer of its kind.

    Equal frequencies go to the first in alphabetical order. A kind that training never saw gets the answer that is most
    frequent overall.

    Args:
        train_kinds, train_answers: of the training items. kinds: of the items to answer.

    Raises:
        ValueError: there is no training item.
    """
    if not train_answers:
        raise ValueError("train_answers: empty; the majority is taken over the training answers")
    counts: dict[str, Counter[str]] = {}
    for kind, answer in zip(train_kinds, train_answers, strict=True):
        counts.setdefault(kind, Counter())[answer] += 1
    overall = _by_frequency(Counter(train_answers))[0]
    majority = {kind: _by_frequency(counter)[0] for kind, counter in counts.items()}
    return [majority.get(kind, overall) for kind in kinds]


def confusion(
    truth: Sequence[str], predictions: Mapping[str, Sequence[str]], limit: int = 12
) -> dict[str, list[str] | list[list[int]]]:
    """Confusion matrices of several arms over common labels.

    Args:
        truth: right answer of each item (n,).
        predictions: arm -> its answers (n,).
        limit: at most so many labels, the most frequent in `truth` first (ties alphabetical). All else, and predictions
            that are never right, are "(other)", which is last and left out when nothing falls into it.

    Returns:
        {"labels": [...], arm: rows of counts, [truth][prediction]}
    """
    labels = _by_frequency(Counter(truth))[:limit]
    index = {label: position for position, label in enumerate(labels)}
    if any(answer not in index for answers in (truth, *predictions.values()) for answer in answers):
        labels = [*labels, OTHER]
    result: dict[str, list[str] | list[list[int]]] = {"labels": labels}
    for arm, answers in predictions.items():
        matrix = np.zeros((len(labels), len(labels)), dtype=np.int64)
        for right, said in zip(truth, answers, strict=True):
            matrix[index.get(right, -1), index.get(said, -1)] += 1
        result[arm] = matrix.tolist()
    return result


def _by_frequency(counts: Counter[str]) -> list[str]:
    return sorted(counts, key=lambda answer: (-counts[answer], answer))
