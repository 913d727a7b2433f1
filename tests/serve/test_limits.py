"""Promises of the limits: a bucket refills at its rate, and room is given back whatever happens."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archlab.serve import problems
from archlab.serve.limits import Room, Stock, TokenBucket, Turns
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


def test_a_request_that_is_counted_in_two_steps_passes_a_full_bucket_too() -> None:
    """Its first item when it comes, the others when they are known."""
    bucket = TokenBucket(1.0, 3, Clock())
    assert bucket.take(1) == 0
    assert bucket.take(9, begun=1) == 0
    assert bucket.take(1) == 8


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
    with room.taken("a", 60):
        with pytest.raises(Problem, match="hold 60 bytes; this one does not fit"), room.taken("b", 50):
            pass
        with room.taken("b", 40):
            with pytest.raises(Problem, match="2 requests are in progress") as full, room.taken("c", 0):
                pass
            assert full.value.headers["Retry-After"] == "1"
            assert full.value.kind is problems.OVERLOADED
        with pytest.raises(KeyError), room.taken("b", 10):
            raise KeyError
        assert (room.requests, room.size) == (1, 60)
    assert (room.requests, room.size) == (0, 0)


def test_a_single_request_always_fits() -> None:
    with Room(2, 100).taken("a", 1000):
        pass


def test_a_caller_who_takes_all_it_can_get_leaves_room_for_others() -> None:
    stock = Stock("{held} are taken.", 100, 0.8)

    def take_all(caller: str) -> None:
        while True:
            stock.check(caller, 1)
            stock.take(caller, 1)

    def flood(caller: str) -> int:
        before = stock.held
        with pytest.raises(Problem) as refused:
            take_all(caller)
        assert refused.value.kind is problems.RATE_LIMITED  # its own doing, and no fault of the service
        assert f"key '{caller}'" in refused.value.detail
        assert refused.value.headers["Retry-After"] == "1"
        return stock.held - before

    assert flood("a") == 80
    assert flood("b") == 16  # four fifths of what was left
    for newcomer in "cd":
        stock.check(newcomer, 1)
        stock.take(newcomer, 1)
    stock.take("a", -80)
    assert flood("b") > 40
    assert flood("a") > 10


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 30)), max_size=80), st.floats(0.1, 1))
def test_no_more_is_held_than_there_is_and_all_of_it_comes_back(asked: list[tuple[str, int]], share: float) -> None:
    stock, held = Stock("{held}", 50, share), []
    for caller, amount in asked:
        try:
            stock.check(caller, amount)
        except Problem:
            continue
        stock.take(caller, amount)
        held.append((caller, amount))
        assert stock.held <= 50
    for caller, amount in held:
        stock.take(caller, -amount)
    assert stock.held == 0
    stock.check("a", 50)


def test_callers_take_turns_at_places_and_one_that_leaves_loses_none() -> None:
    async def main() -> None:
        turns, begun, go_on = Turns(1), list[str](), asyncio.Event()

        async def work(name: str) -> None:
            async with turns.place(name[0]):
                begun.append(name)
                await go_on.wait()

        tasks = [asyncio.create_task(work(name)) for name in ("a1", "a2", "a3", "a4", "b1", "c1")]
        await asyncio.sleep(0)
        tasks[2].cancel()  # a3, which waits
        tasks[0].cancel()  # a1, which works: a2 has the place from now on
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert begun == ["a1", "a2", "b1", "c1", "a4"]
        async with turns.place("d"):  # it is free again
            pass

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_caller_cancelled_in_its_turn_passes_it_on() -> None:
    async def main() -> None:
        turns, over = Turns(1), asyncio.Event()

        async def work(until: asyncio.Event | None) -> None:
            async with turns.place("a"):
                if until is not None:
                    await until.wait()

        first, second, third = (asyncio.create_task(work(until)) for until in (over, None, None))
        await asyncio.sleep(0)
        over.set()
        await first  # the turn of the second has come, but it has not been told
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        await third

    asyncio.run(asyncio.wait_for(main(), 60))
