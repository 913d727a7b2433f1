"""Promises of the intake: bounded whatever is sent, in order, and nothing lost that is not counted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.serve.holding import run, settle

from archlab.serve.problems import Problem
from archlab.serve.streams.intake import Intake


@given(st.integers(1, 5), st.lists(st.integers(0, 12), max_size=12))
def test_what_waits_is_bounded_and_the_newest_is_kept(credit: int, bursts: list[int]) -> None:
    intake, watched = Intake(credit, "drop"), []
    for burst in bursts:  # while the frames before it are watched
        taken = intake.outstanding - len(intake)
        for _ in range(burst):
            intake.put(0.0, b"")
            assert len(intake) + taken == intake.outstanding <= credit + 1
        intake.settle(taken)
        watched += [frame.number for frame in intake.take(len(intake))]
    assert watched == sorted(set(watched))
    assert len(watched) + intake.dropped == intake.received
    assert watched[-1:] == [intake.received - 1][: intake.received]


def test_within_the_credit_nothing_is_dropped_and_beyond_it_a_strict_stream_is_refused() -> None:
    intake = Intake(2, "close")
    for _ in range(3):
        intake.put(0.0, b"")
        intake.put(0.0, b"")
        with pytest.raises(Problem, match="3 frames are not acknowledged and at most 2 may be"):
            intake.put(0.0, b"")
        intake.take(2)
        with pytest.raises(Problem):  # taken is not dealt with
            intake.put(0.0, b"")
        intake.settle(2)
    assert (intake.received, intake.dropped, intake.done) == (6, 0, 6)


def test_whoever_waits_is_told_of_frames_and_of_the_end() -> None:
    async def main() -> None:
        intake = Intake(2, "close")
        waiting: Any = asyncio.create_task(intake.filled())
        await settle()
        assert not waiting.done()
        intake.put(0.0, b"")
        assert await waiting
        intake.take(1)
        waiting = asyncio.create_task(intake.filled())
        await settle()
        intake.close()
        assert not await waiting

    run(main)
