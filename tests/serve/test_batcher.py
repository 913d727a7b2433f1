"""The micro-batcher on a real event loop; what computes waits for a gate, so that nothing is timed."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.serve.holding import run, settle

from archlab.errors import UserError
from archlab.serve.batcher import Batcher, BatchLimits, Silent
from archlab.serve.errors import Expired, NotReady, Overloaded


class Gated:
    """Doubles numbers and gives all else back; every batch waits until the gate is open, and is recorded."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[tuple[Any, list[Any]]] = []
        self.busy = False

    async def __call__(self, group: Any, items: list[Any]) -> Sequence[Any]:
        assert not self.busy
        self.busy = True
        try:
            assert await asyncio.to_thread(self.gate.wait, 60)
        finally:
            self.busy = False
        self.batches.append((group, items))
        for item in items:
            if isinstance(item, Exception):
                raise item
        return [2 * item if isinstance(item, int) else item for item in items]


class Recorder(Silent):
    """What an observer is told."""

    def __init__(self) -> None:
        self.queued: list[int] = []
        self.batches: list[tuple[Any, int]] = []
        self.waits: list[float] = []
        self.drops: Counter[str] = Counter()

    def on_queue(self, queued: int) -> None:
        self.queued.append(queued)

    def on_batch(self, group: Any, waits: Sequence[float], seconds: float) -> None:
        self.batches.append((group, len(waits)))
        self.waits += waits

    def on_drop(self, reason: str, items: int) -> None:
        self.drops[reason] += items


@pytest.fixture
def compute() -> Gated:
    return Gated()


async def occupied(batcher: Batcher, compute: Gated) -> asyncio.Task[Any]:
    """A batch that is being computed until the gate opens: what is queued now waits."""
    compute.gate.clear()
    task = asyncio.create_task(batcher.submit([("first", 0)], caller="first"))
    while not batcher.stats.in_flight:
        await asyncio.sleep(0)
    return task


CALLS = st.lists(
    st.tuples(
        st.sampled_from("abc"),  # caller
        st.lists(st.tuples(st.sampled_from([1, 2]), st.integers(0, 99)), max_size=7),  # group and item
    ),
    max_size=12,
)


@given(calls=CALLS, limit=st.integers(1, 5))
def test_every_call_gets_its_own_results_in_its_own_order_whatever_is_batched_with_it(
    calls: list[tuple[str, list[tuple[int, int]]]], limit: int
) -> None:
    compute = Gated()

    async def main() -> None:
        batcher = Batcher(compute, BatchLimits(batch=limit))
        results = await asyncio.gather(*(batcher.submit(work, caller=caller) for caller, work in calls))
        assert results == [[2 * item for _, item in work] for _, work in calls]
        assert all(len(items) <= limit for _, items in compute.batches)
        assert sum(len(items) for _, items in compute.batches) == sum(len(work) for _, work in calls)
        assert batcher.stats.queued == batcher.stats.in_flight == 0
        await batcher.close()

    run(main)


@given(calls=CALLS, limit=st.integers(1, 5))
def test_an_item_that_is_more_work_counts_as_several(
    calls: list[tuple[str, list[tuple[int, int]]]], limit: int
) -> None:
    """In the queue, in a batch and in the counts; one that is more than a batch is a batch by itself."""
    compute = Gated()

    def weigh(_: object, item: int) -> int:
        return 1 + item % 7

    async def main() -> None:
        batcher = Batcher(compute, BatchLimits(batch=limit), weigh=weigh)
        results = await asyncio.gather(*(batcher.submit(work, caller=caller) for caller, work in calls))
        assert results == [[2 * item for _, item in work] for _, work in calls]
        for _, items in compute.batches:
            assert len(items) == 1 or sum(weigh(None, item) for item in items) <= limit
        assert batcher.stats.items == sum(weigh(None, item) for _, work in calls for _, item in work)
        assert batcher.stats.queued == batcher.stats.in_flight == 0
        await batcher.close()

    run(main)


@given(calls=CALLS, limit=st.integers(1, 5))
def test_groups_are_never_mixed_and_each_caller_is_served_in_its_order_within_a_group(
    calls: list[tuple[str, list[tuple[int, int]]]], limit: int
) -> None:
    compute = Gated()

    async def main() -> None:
        batcher = Batcher(compute, BatchLimits(batch=limit))
        numbered = [
            (caller, [(group, (group, caller, call, i)) for i, (group, _) in enumerate(work)])
            for call, (caller, work) in enumerate(calls)
        ]
        await asyncio.gather(*(batcher.submit(work, caller=caller) for caller, work in numbered))
        await batcher.close()
        served: dict[tuple[Any, str], list[tuple[int, int]]] = {}
        for group, items in compute.batches:
            for own, caller, call, i in items:
                assert own == group
                served.setdefault((group, caller), []).append((call, i))
        assert all(order == sorted(order) for order in served.values())

    run(main)


@given(
    queued=st.dictionaries(st.sampled_from("abcd"), st.lists(st.sampled_from([1, 2]), min_size=1, max_size=9)),
    limit=st.integers(1, 6),
)
def test_callers_take_turns(queued: dict[str, list[int]], limit: int) -> None:
    """In a batch nobody gets two items more than somebody whose items of that group still wait, and the oldest item of
    each of n callers is computed within n batches."""
    compute = Gated()

    async def main() -> None:
        batcher = Batcher(compute, BatchLimits(batch=limit))
        calls = [
            batcher.submit([(group, (caller, i)) for i, group in enumerate(groups)], caller=caller)
            for caller, groups in queued.items()
        ]
        await asyncio.gather(*calls)
        await batcher.close()

    run(main)
    waiting = {caller: {(group, i) for i, group in enumerate(groups)} for caller, groups in queued.items()}
    oldest = dict.fromkeys(waiting, 0)  # batches since a caller's oldest item was the oldest
    for group, items in compute.batches:
        got = Counter(caller for caller, _ in items)
        before = {caller: min(i for _, i in left) for caller, left in waiting.items() if left}
        for caller, i in items:
            waiting[caller].remove((group, i))
        hungry = [caller for caller, left in waiting.items() if any(own == group for own, _ in left)]
        assert all(got[caller] >= max(got.values()) - 1 for caller in hungry)
        for caller, first in before.items():
            served = all(i != first for _, i in waiting[caller])
            oldest[caller] = 0 if served else oldest[caller] + 1
            assert oldest[caller] < len(queued)


def test_a_flood_of_one_caller_delays_another_by_no_more_than_a_batch(compute: Gated) -> None:
    async def main() -> None:
        batcher = Batcher(compute, BatchLimits(batch=4))
        first = await occupied(batcher, compute)
        flood = asyncio.create_task(batcher.submit([("g", i) for i in range(100)], caller="flood"))
        await settle()
        quiet = asyncio.create_task(batcher.submit([("g", 1000)], caller="quiet"))
        await settle()
        compute.gate.set()
        assert await quiet == [2000]
        assert 1000 in compute.batches[1][1]
        await asyncio.gather(first, flood)
        await batcher.close()

    run(main)


def test_what_arrives_while_a_batch_computes_makes_the_next_one(compute: Gated) -> None:
    async def main() -> None:
        batcher = Batcher(compute)
        first = await occupied(batcher, compute)
        others = [asyncio.create_task(batcher.submit([("g", i)], caller=str(i))) for i in range(9)]
        await settle()
        compute.gate.set()
        assert await asyncio.gather(first, *others) == [[0], *([2 * i] for i in range(9))]
        assert [len(items) for _, items in compute.batches] == [1, 9]
        await batcher.close()

    run(main)


def test_an_idle_batcher_waits_for_company_only_when_told_to(compute: Gated) -> None:
    async def main() -> None:
        for linger, sizes in ((0.0, [1, 1]), (0.2, [2])):
            compute.batches.clear()
            batcher = Batcher(compute, BatchLimits(linger=linger))
            first = asyncio.create_task(batcher.submit([("g", 1)]))
            while not batcher.stats.in_flight and not batcher.stats.queued:
                await asyncio.sleep(0)
            await settle()  # without lingering the first one is being computed now
            await asyncio.gather(first, batcher.submit([("g", 2)]))
            assert [len(items) for _, items in compute.batches] == sizes
            await batcher.close()

    run(main)


def test_a_full_queue_refuses_the_whole_call_counts_its_items_and_says_when_to_come_back(compute: Gated) -> None:
    async def main() -> None:
        told = Recorder()
        batcher = Batcher(compute, BatchLimits(queue=5), told)
        first = await occupied(batcher, compute)
        waiting = asyncio.create_task(batcher.submit([("g", i) for i in range(4)]))
        await settle()
        with pytest.raises(Overloaded) as refused:
            await batcher.submit([("g", 1), ("g", 2)])
        assert batcher.stats.queued == 4
        assert told.drops == batcher.stats.dropped == {"refused": 2}
        assert refused.value.retry_after == pytest.approx((4 + 1 + 2) * 0.05)  # nothing was measured yet
        fits = asyncio.create_task(batcher.submit([("g", 7)]))
        await settle()
        assert batcher.stats.queued == 5
        compute.gate.set()
        assert await fits == [14]
        await asyncio.gather(first, waiting)
        assert max(told.queued) == 5
        assert told.queued[-1] == 0
        await batcher.close()

    run(main)


def test_more_items_than_the_queue_ever_holds_are_the_callers_to_mend(compute: Gated) -> None:
    async def main() -> None:
        batcher = Batcher(compute, BatchLimits(queue=3))
        with pytest.raises(UserError, match="4 items: must be at most 3 in one call"):
            await batcher.submit([("g", i) for i in range(4)])
        assert await batcher.submit([("g", i) for i in range(3)]) == [0, 2, 4]
        assert await batcher.submit([]) == []
        await batcher.close()

    run(main)


def test_the_time_to_come_back_follows_the_measured_pace(compute: Gated) -> None:
    async def main() -> None:
        batcher = Batcher(compute)
        batcher.stats.pace = 0.5
        first = await occupied(batcher, compute)
        others = asyncio.create_task(batcher.submit([("g", 1), ("g", 2)]))
        await settle()
        assert batcher.retry_after(4) == (2 + 1 + 4) * 0.5
        compute.gate.set()
        await asyncio.gather(first, others)
        assert 0 < batcher.stats.pace < 0.5  # these batches were faster
        await batcher.close()

    run(main)


def test_items_of_a_caller_that_left_are_never_computed_and_free_their_place_at_once(compute: Gated) -> None:
    async def main() -> None:
        told = Recorder()
        batcher = Batcher(compute, BatchLimits(queue=4), told)
        first = await occupied(batcher, compute)
        leaving = asyncio.create_task(batcher.submit([("g", 91), ("g", 92), ("g", 93)]))
        staying = asyncio.create_task(batcher.submit([("g", 5)]))
        await settle()
        leaving.cancel()
        await settle()
        assert batcher.stats.queued == 1
        assert told.drops == {"cancelled": 3}
        compute.gate.set()
        assert await staying == [10]
        await first
        assert not {91, 92, 93} & {item for _, items in compute.batches for item in items}
        await batcher.close()

    run(main)


def test_a_caller_that_leaves_while_its_item_is_computed_harms_nobody(compute: Gated) -> None:
    async def main() -> None:
        batcher = Batcher(compute)
        first = await occupied(batcher, compute)
        first.cancel()
        await settle()
        after = asyncio.create_task(batcher.submit([("g", 3)]))
        compute.gate.set()
        assert await after == [6]
        assert batcher.stats.dropped == {"wasted": 1}
        await batcher.close()

    run(main)


def test_an_item_whose_time_is_up_is_dropped_before_it_is_computed_and_its_caller_told_at_once(compute: Gated) -> None:
    async def main() -> None:
        batcher = Batcher(compute)
        first = await occupied(batcher, compute)
        now = asyncio.get_running_loop().time()
        late = asyncio.create_task(batcher.submit([("g", 91), ("g", 92)], deadline=now + 0.01))
        patient = asyncio.create_task(batcher.submit([("g", 4)], deadline=now + 60))
        with pytest.raises(Expired):  # while the gate is still closed
            await late
        assert batcher.stats.queued == 1
        assert batcher.stats.dropped == {"expired": 2}
        compute.gate.set()
        assert await patient == [8]
        await first
        assert not {91, 92} & {item for _, items in compute.batches for item in items}
        await batcher.close()

    run(main)


def test_a_deadline_that_has_passed_already_is_not_computed(compute: Gated) -> None:
    async def main() -> None:
        batcher = Batcher(compute)
        with pytest.raises(Expired):
            await batcher.submit([("g", 1)], deadline=asyncio.get_running_loop().time() - 1)
        assert compute.batches == []
        assert batcher.stats.dropped == {"expired": 1}
        await batcher.close()

    run(main)


def test_without_a_deadline_the_default_holds(compute: Gated) -> None:
    async def main() -> None:
        batcher = Batcher(compute, BatchLimits(timeout=0.01))
        compute.gate.clear()
        with pytest.raises(Expired):
            await batcher.submit([("g", 1)])
        compute.gate.set()
        await batcher.close()
        assert batcher.stats.dropped == {"wasted": 1}

    run(main)


def test_closing_finishes_what_is_queued_and_refuses_what_comes_after(compute: Gated) -> None:
    async def main() -> None:
        batcher = Batcher(compute, BatchLimits(batch=2))
        first = await occupied(batcher, compute)
        queued = [asyncio.create_task(batcher.submit([("g", i)])) for i in range(7)]
        await settle()
        closing = asyncio.create_task(batcher.close())
        await settle()
        with pytest.raises(NotReady) as refused:
            await batcher.submit([("g", 8)])
        assert refused.value.retry_after is not None
        assert not closing.done()
        compute.gate.set()
        await closing
        assert await asyncio.gather(first, *queued) == [[0], *([2 * i] for i in range(7))]

    run(main)


def test_one_callers_poison_fails_nobody_else(compute: Gated) -> None:
    async def main() -> None:
        batcher = Batcher(compute)
        first = await occupied(batcher, compute)
        poison = asyncio.create_task(batcher.submit([("g", 1), ("g", ValueError("poison"))], caller="bad"))
        good = [asyncio.create_task(batcher.submit([("g", i)], caller="good")) for i in (5, 6)]
        await settle()
        compute.gate.set()
        assert await asyncio.gather(first, *good) == [[0], [10], [12]]
        with pytest.raises(ValueError, match="poison"):
            await poison
        assert batcher.stats.dropped == {"failed": 2}
        assert await batcher.submit([("g", 9)]) == [18]  # and it goes on
        await batcher.close()

    run(main)


def test_a_call_that_failed_has_nothing_left_in_the_queue(compute: Gated) -> None:
    async def main() -> None:
        batcher = Batcher(compute, BatchLimits(batch=2))
        work = [("g", ValueError("broken")), *(("g", i) for i in range(5))]
        with pytest.raises(ValueError, match="broken"):
            await batcher.submit(work)
        assert batcher.stats.queued == 0
        assert batcher.stats.dropped["failed"] == len(work)
        assert len(compute.batches) == 1
        await batcher.close()

    run(main)


def test_an_engine_that_gives_another_number_of_results_is_an_error_not_a_mixture() -> None:
    async def main() -> None:
        async def lossy(group: Any, items: list[Any]) -> list[Any]:
            return items[1:]

        batcher = Batcher(lossy)
        with pytest.raises(RuntimeError, match="1 results for 2 items of group 'g'"):
            await batcher.submit([("g", 1), ("g", 2)])
        await batcher.close()

    run(main)


def test_an_observer_is_told_of_batches_and_waits(compute: Gated) -> None:
    async def main() -> None:
        told = Recorder()
        batcher = Batcher(compute, BatchLimits(batch=2), told)
        await batcher.submit([("g", 1), ("g", 2), ("h", 3)])
        assert told.batches == [("g", 2), ("h", 1)]
        assert len(told.waits) == 3
        assert min(told.waits) >= 0
        assert (batcher.stats.batches, batcher.stats.items) == (2, 3)
        await batcher.close()

    run(main)


def test_a_flood_leaves_nothing_behind(compute: Gated) -> None:
    """Calls that are refused, cancelled, expired and answered in turn: the queue is empty afterwards, and every item is
    accounted for."""

    async def main() -> None:
        batcher = Batcher(compute, BatchLimits(queue=50, batch=8))
        first = await occupied(batcher, compute)
        now = asyncio.get_running_loop().time()
        tasks = [
            asyncio.create_task(
                batcher.submit([("g", i), ("h", i)], caller=str(i % 7), deadline=now + (0.01 if i % 5 == 0 else 60))
            )
            for i in range(200)
        ]
        await settle()
        for task in tasks[1::9]:
            task.cancel()
        await asyncio.sleep(0.05)
        compute.gate.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        await first
        answered = 2 * sum(isinstance(outcome, list) for outcome in outcomes)
        assert answered + sum(batcher.stats.dropped.values()) == 400
        assert batcher.stats.dropped.keys() == {"refused", "cancelled", "expired"}
        assert batcher.stats.queued == batcher.stats.in_flight == 0
        assert not batcher._callers
        await batcher.close()

    run(main)


def test_the_calls_of_a_batch_are_answered_one_in_each_turn_of_the_event_loop(compute: Gated) -> None:
    """All in one turn, the callers would wait for the service, and then the service for its callers."""

    async def main() -> None:
        batcher, turn, answered = Batcher(compute), 0, dict[int, int]()

        async def count_turns() -> None:
            nonlocal turn
            while len(answered) < 8:
                turn += 1
                await asyncio.sleep(0)

        async def ask(number: int) -> None:
            assert await batcher.submit([("g", number), ("g", number)]) == [2 * number] * 2
            answered[number] = turn

        first = await occupied(batcher, compute)
        calls = [asyncio.create_task(ask(number)) for number in range(8)]
        await settle()
        compute.gate.set()
        await asyncio.gather(first, count_turns(), *calls)
        assert [len(items) for _, items in compute.batches] == [1, 16]
        begun = answered[0]
        assert answered == {number: begun + number for number in range(8)}
        await batcher.close()

    run(main)


def test_closing_answers_everyone_first(compute: Gated) -> None:
    async def main() -> None:
        batcher = Batcher(compute)
        first = await occupied(batcher, compute)
        others = [asyncio.create_task(batcher.submit([("g", i)])) for i in range(9)]
        await settle()
        compute.gate.set()
        await batcher.close()
        await asyncio.sleep(0)  # the last one wakes
        assert [task.result() for task in (first, *others)] == [[0], *([2 * i] for i in range(9))]

    run(main)
