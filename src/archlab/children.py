"""Processes that threads of this one wait for, and that another thread may end."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from threading import Lock


def start_answering(module: str, *arguments: str) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Run a module, told a file descriptor and then the arguments, that answers on a socket until it is closed.

    Nothing that it imports comes from the working directory (-P), and Ctrl-C is not for it (a group of its own).

    Returns:
        the other end of its socket, and the process.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-P", "-m", module, str(theirs.fileno()), *arguments]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], process_group=0)
    return ours, process


def wait_or_kill(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait for a process that was told to end; kill it where it takes longer."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Children:
    """Runs processes to their end, any number at a time.

    Attributes:
        ended: whether `end` was called: what runs from then on counts as terminated before it began.
    """

    def __init__(self) -> None:
        self.ended = False
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = Lock()

    @property
    def running(self) -> int:
        """How many run now."""
        return len(self._running)

    def run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Wait until a process is done; what it wrote to standard error is in the result, the rest is dropped."""
        with self._lock:
            if self.ended:
                return subprocess.CompletedProcess(command, -signal.SIGTERM, stderr="")
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            self._running.add(process)
        try:
            errors = process.communicate()[1]
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            self._running.discard(process)
        return subprocess.CompletedProcess(command, process.returncode, stderr=errors)

    def end(self) -> None:
        """Terminate (SIGTERM) what runs, and let nothing more begin."""
        with self._lock:
            self.ended = True
            for process in list(self._running):
                process.terminate()
