from __future__ import annotations

import json

import numpy as np
import pytest

from archlab.bench.serve.record import Record, cpu_seconds, latency


class Machine:
    """Two cores whose time the test lets pass."""

    def __init__(self) -> None:
        self.now = self.idle = self.own = 0.0

    def record(self) -> Record:
        return Record(lambda: self.now, lambda: (self.idle, 2 * self.now), lambda: self.own)

    def wait(self, seconds: float, idle: float = 0.0, own: float = 0.0) -> None:
        self.now, self.idle, self.own = self.now + seconds, self.idle + idle * 2 * seconds, self.own + own * seconds


def test_only_requests_that_end_within_the_window_count() -> None:
    machine = Machine()
    record = machine.record()
    record.add("search", 9.0, None)  # warm-up
    machine.wait(2, idle=0.9, own=0.1)
    record.begin()
    for seconds in (0.010, 0.020, 0.030, 0.040):
        machine.wait(1, idle=0.25, own=0.5)
        record.add("search", seconds, None)
    record.end()
    machine.wait(1)
    record.add("search", 9.0, None)  # the users are being stopped
    found = record.summary(users=3)
    assert (found["users"], found["requests"], found["seconds"]) == (3, 4, 4)
    assert found["throughput_per_s"] == 1
    assert (found["p50_ms"], found["max_ms"]) == (pytest.approx(25), pytest.approx(40))
    assert found["idle_share"] == pytest.approx(0.25)
    assert found["generator_cores"] == pytest.approx(0.5)
    assert json.loads(json.dumps(found)) == found


def test_an_error_counts_whenever_it_happens_and_is_named() -> None:
    machine = Machine()
    record = machine.record()
    record.add("search", 0.1, OSError("refused"))
    record.begin()
    machine.wait(1)
    record.add("search", 0.1, None)
    record.end()
    found = record.summary(users=1)
    assert (found["errors"], found["error_kinds"]) == (1, {"search: refused": 1})
    assert found["requests"] == 1


def test_kinds_of_requests_are_told_apart_and_tenths_of_the_test_too() -> None:
    machine = Machine()
    record = machine.record()
    record.begin()
    for tenth in range(10):
        machine.wait(0.5)
        record.add("search", 0.01 * (tenth + 1), None)
        record.add("classify", 0.01 * (tenth + 1), None)
        machine.wait(0.5)
    record.end()
    found = record.summary(users=1)
    assert {kind: own["requests"] for kind, own in found["kinds"].items()} == {"search": 10, "classify": 10}
    assert found["p95_of_tenths_ms"] == pytest.approx([10 * (tenth + 1) for tenth in range(10)])


def test_a_test_that_ended_while_warming_up_has_no_requests() -> None:
    assert Record().summary(users=1)["requests"] == 0


def test_percentiles_are_exact() -> None:
    found = latency(np.arange(1, 101) / 1e3, window=10)
    assert found["throughput_per_s"] == 10
    assert found["p95_ms"] == pytest.approx(95.05)
    assert latency(np.empty(0), window=1) == {"requests": 0, "throughput_per_s": 0.0}


def test_idle_seconds_are_a_part_of_all_seconds() -> None:
    idle, total = cpu_seconds()
    assert 0 < idle < total
