"""Promises of `archlab.children`: whoever waits is told how it ended, and nothing is left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from archlab.children import Children

SLEEPING = [sys.executable, "-c", "import time; time.sleep(600)"]


def pid_of(children: Children) -> int:
    """Of the one process that runs, as soon as it does."""
    while not children._running:
        threading.Event().wait(0.005)
    (process,) = children._running
    return process.pid


def test_a_process_is_told_with_its_exit_code_and_what_it_complained_about() -> None:
    code = "import sys; print('chatter'); sys.exit('no such thing')"
    done = Children().run([sys.executable, "-c", code])
    assert (done.returncode, done.stderr) == (1, "no such thing\n")


def test_what_runs_is_terminated_and_nothing_begins_afterwards() -> None:
    children = Children()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(children.run, SLEEPING)
        pid = pid_of(children)
        children.end()
        assert running.result().returncode == -signal.SIGTERM
    assert not psutil.pid_exists(pid)
    assert children.run(["no program of that name"]).returncode == -signal.SIGTERM


def test_whoever_is_interrupted_leaves_no_process_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    children, pids = Children(), []

    def interrupted(process: subprocess.Popen[str]) -> tuple[str, str]:
        pids.append(process.pid)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        children.run(SLEEPING)
    assert not psutil.pid_exists(pids[0])
    assert not children._running
