from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from archlab.bench.serve.capacity import find_capacity, keeps


def service(knee: int, *, rate: float = 1000.0, breaks: int | None = None) -> Callable[[int], dict[str, Any]]:
    """A service that answers at most `rate` requests a second: a closed loop of N users then waits N / rate seconds."""

    def measure(users: int) -> dict[str, Any]:
        seconds = max(knee / rate, users / rate)
        errors = 5 if breaks is not None and users >= breaks else 0
        return {
            "users": users,
            "requests": 99,
            "throughput_per_s": users / seconds,
            "p95_ms": 1e3 * seconds,
            "errors": errors,
        }

    return measure


def test_the_load_doubles_until_the_limit_breaks_and_closes_in_from_there() -> None:
    steps, best = find_capacity(service(knee=20), goal_ms=90, most=512)
    users = [step["users"] for step in steps]
    assert users == sorted(users)
    assert {8, 16, 32, 64, 128} <= set(users)
    assert best is not None
    assert best["p95_ms"] < 90
    held, broken = max(u for u in users if u < 90), min(u for u in users if u >= 90)
    assert broken / held <= 1.25


def test_of_the_steps_that_keep_the_limit_the_fastest_counts_and_not_the_largest() -> None:
    rates = {8: 900.0, 16: 1500.0, 32: 1400.0}

    def measure(users: int) -> dict[str, Any]:
        return {"users": users, "requests": 1, "throughput_per_s": rates[users], "p95_ms": 1.0, "errors": 0}

    _, best = find_capacity(measure, goal_ms=100, most=32)
    assert best is not None
    assert best["users"] == 16


def test_a_step_with_an_error_does_not_count_however_fast_it_is() -> None:
    steps, best = find_capacity(service(knee=1, breaks=20), goal_ms=1000, most=64)
    assert best is not None
    assert best["users"] < 20
    assert all(step["users"] < 64 for step in steps)  # beyond the first that breaks nothing is tried


def test_where_no_step_keeps_the_limit_there_is_no_capacity() -> None:
    steps, best = find_capacity(service(knee=500), goal_ms=100)
    assert best is None
    assert steps[0]["users"] == 1


def test_no_more_users_than_allowed_are_tried() -> None:
    steps, best = find_capacity(service(knee=1000, rate=1e6), goal_ms=100, most=40)
    assert [step["users"] for step in steps] == [8, 16, 32, 40]
    assert best is not None
    assert [step["users"] for step in find_capacity(service(knee=1), goal_ms=100, most=4)[0]] == [4]


def test_every_step_is_measured_again_in_sweeps_and_its_median_counts() -> None:
    asked: list[int] = []
    rates = {8: [900.0, 100.0, 1000.0], 16: [2000.0, 800.0, 700.0]}  # a burst of speed is not the capacity

    def measure(users: int) -> dict[str, Any]:
        asked.append(users)
        rate = rates[users][asked.count(users) - 1]
        return {"users": users, "requests": 5, "throughput_per_s": rate, "p95_ms": 1e4 / rate, "errors": 0}

    steps, best = find_capacity(measure, goal_ms=1000, most=16, sweeps=3)
    assert asked == [8, 16, 8, 16, 8, 16]
    assert [(step["users"], step["throughput_per_s"], step["requests"]) for step in steps] == [
        (8, 900, 15),
        (16, 800, 15),
    ]
    assert [[one["throughput_per_s"] for one in step["rounds"]] for step in steps] == list(rates.values())
    assert best == steps[0]


def test_an_error_in_any_sweep_is_one_of_the_step() -> None:
    errors = iter([0, 0, 1])

    def measure(users: int) -> dict[str, Any]:
        return {"users": users, "requests": 5, "throughput_per_s": 9.0, "p95_ms": 1.0, "errors": next(errors)}

    steps, best = find_capacity(measure, goal_ms=100, most=8, sweeps=3)
    assert (steps[0]["errors"], best) == (1, None)


@pytest.mark.parametrize(
    ("broken", "kept"), [({}, True), ({"errors": 1}, False), ({"p95_ms": 100.0}, False), ({"requests": 0}, False)]
)
def test_a_step_is_kept_without_errors_and_under_the_limit(broken: dict[str, Any], kept: bool) -> None:
    step = {"users": 8, "requests": 9, "throughput_per_s": 9.0, "p95_ms": 99.9, "errors": 0}
    assert keeps(step | broken, goal_ms=100) == kept
