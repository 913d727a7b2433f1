"""Several processes that find each other as under torchrun, and are gone when the test is over.

python many.py COUNT PROGRAM FOLDER ARGUMENTS...     calls PROGRAM's `main(FOLDER, ARGUMENTS...)` in COUNT processes;
                                                     what process R says is in FOLDER/R.out and FOLDER/R.err
"""

from __future__ import annotations

import os
import runpy
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_PATIENCE = 300  # seconds; a test that waits longer hangs


@dataclass
class Ended:
    """How a process ended."""

    code: int
    output: str
    errors: str


def job_of(count: int) -> list[dict[str, str]]:
    """What torchrun puts into the environment of each process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    job = {"WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    job |= {"LOCAL_WORLD_SIZE": count}
    return [{name: str(value) for name, value in (job | {"RANK": i, "LOCAL_RANK": i}).items()} for i in range(count)]


@contextmanager
def started(count: int, arguments: Sequence[object]) -> Iterator[list[subprocess.Popen[str]]]:
    """`count` Python processes of one job; whatever happens, none is left behind."""
    processes: list[subprocess.Popen[str]] = []
    try:
        for variables in job_of(count):
            processes.append(
                subprocess.Popen(
                    [sys.executable, *map(str, arguments)],
                    env=os.environ | variables,
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


def run_many(count: int, program: Path, folder: Path, *arguments: object) -> list[Ended]:
    """Call `main(folder, *arguments)` of a program in `count` processes of one job, all of which must end well.

    They are forked from one that has imported the program, which takes longer than all that the tests ask of them.
    """
    with started(1, [__file__, count, program, folder, *arguments]) as (parent,):
        (ended,) = ends([parent])
    texts = [[(folder / f"{rank}.{kind}").read_text() for kind in ("out", "err")] for rank in range(count)]
    assert ended.code == 0, (ended, texts)
    return [Ended(0, output, errors) for output, errors in texts]


def _fork(count: int, program: str, folder: str, *arguments: str) -> int:
    main = runpy.run_path(program)["main"]
    children = []
    for rank, variables in enumerate(job_of(count)):
        if child := os.fork():
            children.append(child)
            continue
        os.environ |= variables
        for kind, number in (("out", 1), ("err", 2)):
            os.dup2(os.open(Path(folder) / f"{rank}.{kind}", os.O_CREAT | os.O_WRONLY), number)
        try:
            main(Path(folder), *arguments)
            code = 0
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0 for child in children)


if __name__ == "__main__":
    sys.exit(_fork(int(sys.argv[1]), *sys.argv[2:]))
