from __future__ import annotations

from archlab.bench.serve.shapes import at, spike, steady


def test_a_steady_load_climbs_once_and_stays() -> None:
    users = [steady(now, seconds=100, users=40) for now in range(100)]
    assert users[0] == 1
    assert users == sorted(users)
    assert users[10:] == [40] * 90


def test_a_spike_comes_twice_without_warning_and_goes() -> None:
    users = [spike(now, seconds=100, users=40) for now in range(100)]
    assert sorted(set(users)) == [10, 40]
    assert [now for now in range(1, 100) if users[now] != users[now - 1]] == [30, 40, 60, 70]


def test_a_shape_ends_with_its_test() -> None:
    assert at(steady, 99.9, 100, 40) == (40, 40.0)
    assert at(steady, 100, 100, 40) is None
