from __future__ import annotations

import gc
from collections.abc import Callable

import numpy as np
import pytest

from archlab.compare.latency import alternate, measure_latency


class Clock:
    """Stands still unless a function spends time."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def spend(self, seconds: float) -> None:
        self.now += seconds


def test_percentiles_and_throughput_are_those_of_the_timed_calls() -> None:
    clock = Clock()
    waits = iter([99.0, 99.0, *(number / 1000 for number in range(1, 102))])  # two for warm-up, then 1 to 101 ms
    results = measure_latency(
        {"only": lambda batch: lambda: clock.spend(next(waits))}, [4], count=101, warmup=2, clock=clock
    )
    measured = results["only"]["4"]
    assert measured["p50_ms"] == pytest.approx(51)
    assert measured["p95_ms"] == pytest.approx(96)
    assert measured["p99_ms"] == pytest.approx(100)
    assert measured["throughput_per_s"] == pytest.approx(4 * 101 / 5.151)  # 1 + ... + 101 = 5151 ms


def test_preparing_a_request_is_not_timed_and_sees_its_batch_size() -> None:
    clock, prepared = Clock(), []

    def prepare(batch: int) -> Callable[[], None]:
        clock.spend(1000)
        prepared.append(batch)
        return lambda: clock.spend(batch)

    results = measure_latency({"only": prepare}, [1, 8], count=3, warmup=0, clock=clock)
    assert prepared == [1, 8]
    assert [results["only"][batch]["p99_ms"] for batch in ("1", "8")] == pytest.approx([1e3, 8e3])


def test_functions_take_turns_and_each_begins_equally_often() -> None:
    calls: list[str] = []
    functions = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    alternate(functions, rounds=6, warmup=1)
    rounds = [calls[start : start + 3] for start in range(3, len(calls), 3)]
    assert calls[:3] == ["a", "b", "c"]
    assert len(rounds) == 6
    assert all(sorted(turn) == ["a", "b", "c"] for turn in rounds)
    assert sorted(turn[0] for turn in rounds) == ["a", "a", "b", "b", "c", "c"]


def test_every_call_is_booked_on_its_own_function() -> None:
    clock = Clock()
    functions = {name: (lambda seconds=seconds: clock.spend(seconds)) for name, seconds in (("fast", 1), ("slow", 5))}
    seconds = alternate(functions, rounds=4, warmup=0, clock=clock)
    np.testing.assert_array_equal(seconds["fast"], [1] * 4)
    np.testing.assert_array_equal(seconds["slow"], [5] * 4)


def test_garbage_is_not_collected_within_a_call_and_the_collector_comes_back() -> None:
    enabled: list[bool] = []

    def fail() -> None:
        enabled.append(gc.isenabled())
        if len(enabled) == 2:
            raise RuntimeError("stop")

    assert gc.isenabled()
    with pytest.raises(RuntimeError, match="stop"):
        alternate({"only": fail}, rounds=3, warmup=0)
    assert enabled == [False, False]
    assert gc.isenabled()
