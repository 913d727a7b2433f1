"""Interpolated Kneser-Ney n-grams: the floor that a language model of characters has to beat.

Shape legend: N symbols.
"""

from __future__ import annotations

import numpy as np


def ngram_loss(train: np.ndarray, test: np.ndarray, symbols: int, order: int) -> float:
    """Mean negative log-likelihood of the continuation of a text, in nats per symbol.

    An n-gram is believed as far as it was seen, less a discount that goes to the next shorter context; shorter contexts
    count in how many longer ones they occur (Kneser and Ney, 1995, as in Chen and Goodman, 1999, equation 21).

    Args:
        train: ids of the text that is counted, (N,).
        test: ids of its continuation; the first are predicted from the end of `train`.
        symbols: number of different ids.
        order: n.

    Raises:
        ValueError: the text is shorter than an n-gram, or its n-grams have no 64-bit code.
    """
    if len(train) < order or not len(test) or symbols ** (order + 1) >= 2**63:
        raise ValueError(f"order={order}: needs a text of at least as many symbols, and {symbols}^{order + 1} < 2^63")
    text = np.concatenate([train[len(train) - order + 1 :], test]).astype(np.int64)
    probability = np.full(len(test), 1 / symbols)
    for n in range(1, order + 1):
        counted = _codes(train, n, symbols)
        if n < order:  # the symbols that an n-gram was seen after: longer ones, once each, without their first symbol
            counted = np.unique(_codes(train, n + 1, symbols)) % symbols**n
        grams, counts = np.unique(counted, return_counts=True)
        ones, twos = (int((counts == times).sum()) for times in (1, 2))
        discount = ones / (ones + 2 * twos) if ones else 0.5
        contexts, first = np.unique(grams // symbols, return_index=True)
        totals = np.add.reduceat(counts, first)
        kinds = np.diff(np.append(first, len(grams)))  # different continuations of each context
        asked = _codes(text[order - n :], n, symbols)  # n-grams that end in the symbols of `test`
        seen, count = _look_up(asked, grams, counts)
        known, place = _look_up(asked // symbols, contexts, np.arange(len(contexts)))
        total = totals[place]
        sharp = (np.maximum(count - discount, 0) * seen + discount * kinds[place] * probability) / total
        probability = np.where(known, sharp, probability)
    return float(-np.log(probability).mean())


def _codes(text: np.ndarray, n: int, symbols: int) -> np.ndarray:
    """Every n-gram of a text as one number, (N - n + 1,)."""
    count = len(text) - n + 1
    codes = np.zeros(count, np.int64)
    for i in range(n):
        codes = codes * symbols + text[i : i + count]
    return codes


def _look_up(asked: np.ndarray, keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether each number is among the sorted `keys`, and its value there (an arbitrary one where it is not)."""
    place = np.searchsorted(keys, asked).clip(max=len(keys) - 1)
    return keys[place] == asked, values[place]
