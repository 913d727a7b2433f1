"""Several processes that find each other as under torchrun, and are gone when the test is over."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_PATIENCE = 240  # seconds; a test that waits longer hangs


@dataclass
class Ended:
    """How a process ended."""

    code: int
    output: str
    errors: str


@contextmanager
def started(count: int, arguments: Sequence[object]) -> Iterator[list[subprocess.Popen[str]]]:
    """`count` Python processes of one job; whatever happens, none is left behind."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    job = {"WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    processes = []
    try:
        for rank in range(count):
            own = job | {"RANK": rank, "LOCAL_RANK": rank}
            processes.append(
                subprocess.Popen(
                    [sys.executable, *map(str, arguments)],
                    env=os.environ | {name: str(value) for name, value in own.items()},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    start_new_session=True,
                )
            )
        yield processes
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def ends(processes: Sequence[subprocess.Popen[str]]) -> list[Ended]:
    """Wait for all of them."""
    ended = []
    for process in processes:
        output, errors = process.communicate(timeout=_PATIENCE)
        ended.append(Ended(process.returncode, output, errors))
    return ended


def found_by(count: int, program: Path, folder: Path, *arguments: object) -> Any:
    """What the first of `count` processes that run `program FOLDER ARGUMENTS...` saved as FOLDER/found.pt."""
    with started(count, [program, folder, *arguments]) as processes:
        ended = ends(processes)
    assert [one.code for one in ended] == [0] * count, ended
    return torch.load(folder / "found.pt", weights_only=True)
