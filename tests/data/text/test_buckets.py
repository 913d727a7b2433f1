from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archlab.data.text.buckets import LengthBuckets

lengths = st.lists(st.integers(1, 40), min_size=1, max_size=120).map(np.array)


@given(lengths, st.integers(40, 200), st.integers(0, 5))
def test_every_epoch_draws_every_example_once_and_no_batch_exceeds_the_budget(
    lengths: np.ndarray, budget: int, seed: int
) -> None:
    buckets = LengthBuckets(lengths, budget, seed)
    for epoch in range(3):
        batches = [buckets(epoch * buckets.per_epoch + place) for place in range(buckets.per_epoch)]
        assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
        assert all(len(rows) * lengths[rows].max() <= budget for rows in batches)


@given(lengths, st.integers(40, 200), st.lists(st.integers(0, 60), min_size=1, max_size=8))
def test_a_batch_is_a_function_of_its_number_and_of_nothing_before_it(
    lengths: np.ndarray, budget: int, numbers: list[int]
) -> None:
    asked = LengthBuckets(lengths, budget, 3)
    for number in numbers:
        assert np.array_equal(asked(number), LengthBuckets(lengths, budget, 3)(number))


def test_epochs_and_seeds_differ() -> None:
    lengths = np.random.default_rng(0).integers(5, 9, 400)
    first, other = LengthBuckets(lengths, 100, 0), LengthBuckets(lengths, 100, 1)
    assert not np.array_equal(first(0), first(first.per_epoch))
    assert not np.array_equal(first(0), other(0))


def test_little_is_padding_where_many_are_of_one_length_and_much_where_batches_are_not_sorted() -> None:
    lengths = np.random.default_rng(0).integers(5, 60, 4000)
    buckets = LengthBuckets(lengths, 2000, 0)
    batches = [buckets(number) for number in range(buckets.per_epoch)]
    tokens = sum(len(rows) * lengths[rows].max() for rows in batches)
    assert buckets.padding == pytest.approx(1 - lengths.sum() / tokens)
    assert buckets.padding < 0.03
    assert 1 - lengths[:30].sum() / (30 * lengths[:30].max()) > 0.3


def test_an_example_longer_than_the_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="budget, 10"):
        LengthBuckets(np.array([3, 11]), 10, 0)
