from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archlab.data.order import Order

ANSWERS, CAPTIONS = np.arange(0, 50), np.arange(50, 73)
GROUPS = [ANSWERS, CAPTIONS]
EPOCH = 50 // 4 + 23 // 4  # whole batches of 4 per task
PARTS = [part.name for part in fields(Order)]


def draw(steps: int = EPOCH, batch_size: int = 4, seed: int = 0, views: int = 0) -> Order:
    return Order.draw(GROUPS, steps, batch_size, seed, views)


def assert_equal(first: Order, second: Order) -> None:
    for name in PARTS:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)


@given(st.integers(1, 3 * EPOCH), st.integers(1, 3 * EPOCH), st.integers(0, 3), st.integers(0, 2))
def test_a_longer_order_begins_with_the_shorter_one(one: int, other: int, seed: int, views: int) -> None:
    short, long = (draw(steps, seed=seed, views=views) for steps in sorted((one, other)))
    steps = len(short.rows)
    assert_equal(short, Order(**{name: getattr(long, name)[:steps] for name in PARTS}))
    assert short.digest() == long.digest(steps)


@given(st.integers(1, 60), st.integers(1, 40))
def test_has_one_row_of_one_batch_for_every_step(steps: int, batch_size: int) -> None:
    order = draw(steps, batch_size)
    for name in PARTS:
        assert getattr(order, name).shape == (steps, batch_size)
        assert getattr(order, name).dtype == np.int64


@given(st.integers(1, 100), st.integers(1, 60))
def test_a_batch_holds_one_task(seed: int, batch_size: int) -> None:
    for rows in draw(40, batch_size, seed).rows:
        assert {row >= 50 for row in rows} in ({True}, {False})


@given(st.integers(0, 100))
def test_no_example_comes_twice_before_all_others_of_its_task_had_their_turn(seed: int) -> None:
    order = draw(3 * EPOCH, seed=seed)
    for epoch in range(3):
        rows = order.rows[epoch * EPOCH : (epoch + 1) * EPOCH].ravel()
        assert max(Counter(rows).values()) == 1
        # All of an epoch, but for what does not fill a batch: 2 answers, 3 captions.
        assert len(rows) == 48 + 20
    assert set(order.rows.ravel()) > set(order.rows[:EPOCH].ravel())  # those come in other epochs


def test_a_batch_that_divides_the_examples_leaves_none_out() -> None:
    order = Order.draw([np.arange(20), np.arange(20, 30)], 6, 5, 0)
    assert sorted(order.rows.ravel()) == list(range(30))


def test_epochs_are_shuffled_differently() -> None:
    order = draw(2 * EPOCH)
    first, second = order.rows[:EPOCH], order.rows[EPOCH:]
    assert not np.array_equal(first, second)
    tasks = [(part[:, 0] >= 50).tolist() for part in (first, second)]
    assert tasks[0] != tasks[1]
    assert all(0 < sum(task[: EPOCH // 2]) < sum(task) for task in tasks)  # tasks alternate, not one after the other


def test_a_task_smaller_than_a_batch_fills_it_by_turns() -> None:
    order = Order.draw([np.array([3, 7, 9])], 4, 8, 0)
    for rows in order.rows:
        assert set(Counter(rows).values()) <= {2, 3}
        assert set(rows) == {3, 7, 9}


@given(st.integers(0, 5), st.integers(0, 100))
def test_views_are_within_range_and_all_of_them_occur(views: int, seed: int) -> None:
    order = draw(40, seed=seed, views=views)
    assert set(order.views.ravel()) == set(range(views + 1))


def test_views_change_nothing_else() -> None:
    plain, augmented = draw(views=0), draw(views=3)
    assert_equal(plain, replace(augmented, views=plain.views))


@pytest.mark.parametrize("forms", [2, 4, 8, 32])
def test_every_surface_form_is_drawn_equally_often_whatever_their_number(forms: int) -> None:
    order = draw(2000)
    for draws in (order.query_forms, order.target_forms):
        counts = np.bincount(draws.ravel() % forms, minlength=forms)
        expected = draws.size / forms
        assert np.abs(counts - expected).max() < 5 * expected**0.5
    agree = (order.query_forms % forms == order.target_forms % forms).mean()
    assert agree < 1.5 / forms  # query and target are drawn apart


def test_the_seed_decides() -> None:
    assert_equal(draw(seed=5), draw(seed=5))
    assert not np.array_equal(draw(seed=5).rows, draw(seed=6).rows)


@given(st.sampled_from(PARTS), st.integers(0, EPOCH - 1), st.integers(0, 3))
def test_the_digest_sees_every_number_of_the_steps_it_covers(name: str, step: int, column: int) -> None:
    order = draw()
    changed = getattr(order, name).copy()
    changed[step, column] += 1
    other = replace(order, **{name: changed})
    assert other.digest() != order.digest()
    assert other.digest(step + 1) != order.digest(step + 1)
    assert other.digest(step) == order.digest(step)  # the steps before are the same
