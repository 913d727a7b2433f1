"""Calls in processes side by side."""

from __future__ import annotations

import operator
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from archlab.compare.workers import side_by_side
from archlab.errors import DivergedError, UserError


def refuse() -> None:
    raise DivergedError("the loss is nan")


def interrupt_oneself() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)


def tell_and_wait(path: Path) -> None:
    path.with_suffix(".partial").write_text(str(os.getpid()), encoding="utf-8")
    path.with_suffix(".partial").rename(path)
    time.sleep(600)


def test_every_call_gives_its_result() -> None:
    assert sorted(side_by_side(operator.add, [(1, 2), (3, 4), (5, 6)], 2)) == [3, 7, 11]


@pytest.mark.slow
def test_what_a_worker_raises_is_raised_and_one_that_is_killed_is_no_traceback() -> None:
    with pytest.raises(UserError, match="the loss is nan"):
        list(side_by_side(refuse, [()], 1))
    with pytest.raises(MemoryError, match="a worker was killed"):
        list(side_by_side(os._exit, [(9,)], 1))


def test_a_worker_that_is_interrupted_interrupts_its_parent() -> None:
    with pytest.raises(KeyboardInterrupt):
        list(side_by_side(interrupt_oneself, [()], 1))


@pytest.mark.slow
def test_a_worker_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from archlab.compare.workers import side_by_side
from tests.compare.test_workers import tell_and_wait
if __name__ == "__main__":
    list(side_by_side(tell_and_wait, [(Path(sys.argv[1]),)], 1))
"""
    (tmp_path / "parent.py").write_text(program, encoding="utf-8")
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, *filter(None, sys.path)])}
    told = tmp_path / "pid"
    with subprocess.Popen([sys.executable, tmp_path / "parent.py", told], env=environment) as parent:
        while not told.exists():
            assert parent.poll() is None
            time.sleep(0.05)
        worker = int(told.read_text(encoding="utf-8"))
        assert Path(f"/proc/{worker}").exists()
        parent.kill()
    while Path(f"/proc/{worker}").exists():  # a worker that stays ends this test by its timeout
        time.sleep(0.05)
