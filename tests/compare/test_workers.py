"""Calls in processes side by side."""

from __future__ import annotations

import operator
import os

import pytest

from archlab.compare.workers import side_by_side
from archlab.errors import DivergedError, UserError


def refuse() -> None:
    raise DivergedError("the loss is nan")


@pytest.mark.slow
def test_every_call_gives_its_result() -> None:
    assert sorted(side_by_side(operator.add, [(1, 2), (3, 4), (5, 6)], 2)) == [3, 7, 11]


@pytest.mark.slow
def test_what_a_worker_raises_is_raised_and_one_that_is_killed_is_no_traceback() -> None:
    with pytest.raises(UserError, match="the loss is nan"):
        list(side_by_side(refuse, [()], 1))
    with pytest.raises(MemoryError, match="a worker was killed"):
        list(side_by_side(os._exit, [(9,)], 1))
