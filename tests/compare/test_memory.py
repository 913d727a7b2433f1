"""Measured in spawned processes: the functions are at module level so that a child can import them."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import torch

from archlab.compare.memory import NOT_MEASURED, peak_allocation, peak_memory_of, peaks_of


def touch(mebibytes: int) -> None:
    np.ones(mebibytes << 20, dtype=np.uint8).sum()


def fail() -> None:
    raise ValueError("from within")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_peak_belongs_to_its_own_function_and_not_to_the_process_that_asks() -> None:
    large_here = np.ones(300 << 20, dtype=np.uint8)  # the parent's memory must not count
    large = peak_memory_of(touch, 200)
    small = peak_memory_of(touch, 1)
    assert large_here.any()
    assert large["peak_memory_mib"] - small["peak_memory_mib"] == pytest.approx(199, abs=40)
    assert small["peak_memory_mib"] >= small["start_memory_mib"] > 20
    assert small["peak_memory_mib"] - small["start_memory_mib"] < 100
    if not torch.cuda.is_available():
        assert large["gpu_memory"] == NOT_MEASURED


def test_peaks_of_several_calls_come_in_their_order() -> None:
    peaks = [one["peak_memory_mib"] - one["start_memory_mib"] for one in peaks_of(touch, [(150,), (1,), (300,)])]
    assert peaks[1] < peaks[0] < peaks[2]


def test_what_the_function_raises_arrives() -> None:
    with pytest.raises(ValueError, match="from within"):
        peak_memory_of(fail)


def test_a_killed_process_is_named() -> None:
    with pytest.raises(MemoryError, match="die: its process was killed"):
        peak_memory_of(die)


def test_the_peak_of_tensors_is_what_existed_at_once_beyond_what_was_there_before() -> None:
    before = torch.ones(1 << 20)

    def work() -> torch.Tensor:
        first = torch.empty(1000, dtype=torch.uint8)
        second = torch.empty(2000, dtype=torch.uint8)
        del first
        return torch.cat([second, torch.empty(5, dtype=torch.uint8)])  # 2000, 5 and 2005 at once

    for _ in range(2):
        assert peak_allocation(work, torch.device("cpu")) == 4010
    assert peak_allocation(lambda: before.zero_(), torch.device("cpu")) == 0


def test_measuring_the_peak_of_tensors_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    peak_allocation(lambda: torch.ones(3), torch.device("cpu"))
    assert capfd.readouterr() == ("", "")
