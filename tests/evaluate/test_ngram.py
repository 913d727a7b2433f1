from __future__ import annotations

import math
from itertools import pairwise, product

import numpy as np
import pytest

from archlab.evaluate.ngram import ngram_loss

TEXT = np.array([int(c) for c in "0120112001220101202110012012012210"])


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_the_probabilities_of_all_continuations_add_up_to_one(order: int) -> None:
    for context in product(range(3), repeat=2):
        text = np.concatenate([TEXT, context])
        total = sum(math.exp(-ngram_loss(text, np.array([symbol]), 3, order)) for symbol in range(3))
        assert total == pytest.approx(1.0)


def test_a_unigram_believes_what_it_counted_less_a_discount() -> None:
    train = np.array([0, 0, 0, 1, 2, 2])  # one symbol seen once, one twice: the discount is 1 / (1 + 2)
    loss = ngram_loss(train, np.array([0]), 4, 1)
    assert math.exp(-loss) == pytest.approx((3 - 1 / 3) / 6 + 1 / 3 * 3 / 6 / 4)


def test_a_bigram_leaves_its_discount_to_the_symbols_that_follow_many_others() -> None:
    """Against the definition, written out (Chen and Goodman, 1999, equation 21)."""
    train = np.array([0, 1, 0, 1, 0, 2, 1, 1])
    pairs = list(pairwise(train))
    counts = {pair: pairs.count(pair) for pair in set(pairs)}

    def discount(values: list[int]) -> float:
        ones, twos = values.count(1), values.count(2)
        return ones / (ones + 2 * twos) if ones else 0.5

    before = [len({first for first, second in counts if second == symbol}) for symbol in range(3)]
    low = discount(before)
    kinds = sum(count > 0 for count in before)
    lower = [max(count - low, 0) / sum(before) + low * kinds / sum(before) / 3 for count in before]
    high = discount(list(counts.values()))
    for symbol in range(3):
        after = [counts.get((1, other), 0) for other in range(3)]
        expected = (max(after[symbol] - high, 0) + high * sum(c > 0 for c in after) * lower[symbol]) / sum(after)
        assert math.exp(-ngram_loss(train, np.array([symbol]), 3, 2)) == pytest.approx(expected)


def test_a_longer_context_helps_where_the_text_repeats_itself() -> None:
    text = np.tile([0, 1, 0, 2], 50)
    losses = [ngram_loss(text[:160], text[160:], 3, order) for order in (1, 2, 3)]
    assert losses[0] > losses[1] > losses[2]
    assert losses[2] < 0.05


def test_a_text_shorter_than_an_ngram_is_refused() -> None:
    with pytest.raises(ValueError, match="order=5"):
        ngram_loss(np.array([0, 1]), np.array([0]), 2, 5)
