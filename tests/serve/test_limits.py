"""Promises of the limits: a bucket refills at its rate, and room is given back whatever happens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archlab.serve.limits import Room, TokenBucket
from archlab.serve.problems import Problem


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_gives_its_burst_then_its_rate() -> None:
    clock = Clock()
    bucket = TokenBucket(2.0, 3, clock)
    assert [bucket.take(1) for _ in range(4)] == [0, 0, 0, 0.5]
    clock.now = 0.5
    assert bucket.take(1) == 0
    assert bucket.take(1) == 0.5


def test_more_items_than_the_burst_pass_a_full_bucket_and_are_paid_off() -> None:
    clock = Clock()
    bucket = TokenBucket(1.0, 2, clock)
    assert bucket.take(10) == 0
    assert bucket.take(1) == 9
    clock.now = 9
    assert bucket.take(1) == 0


@given(st.lists(st.tuples(st.integers(1, 5), st.floats(0, 2)), max_size=60))
def test_over_any_time_no_more_than_burst_and_rate_allow(requests: list[tuple[int, float]]) -> None:
    clock = Clock()
    bucket, taken = TokenBucket(3.0, 5, clock), 0
    for items, pause in requests:
        clock.now += pause
        wait = bucket.take(items)
        taken += 0 if wait else items
        assert taken <= 5 + 3.0 * clock.now + 1e-6
        if wait:
            clock.now += wait
            assert bucket.take(items) == 0
            taken += items


def test_room_is_bounded_in_requests_and_in_bytes_and_given_back() -> None:
    room = Room(2, 100)
    with room.taken(60):
        with pytest.raises(Problem, match="does not fit"), room.taken(50):
            pass
        with room.taken(40):
            with pytest.raises(Problem, match="2 requests are in progress") as full, room.taken(0):
                pass
            assert full.value.headers["Retry-After"] == "1"
            assert full.value.kind.status == 429
        with pytest.raises(KeyError), room.taken(10):
            raise KeyError
        assert (room.requests, room.size) == (1, 60)
    assert (room.requests, room.size) == (0, 0)


def test_a_single_request_always_fits() -> None:
    with Room(2, 100).taken(1000):
        pass
