"""Progress of long work on standard error: a bar with the loss and the time left, or a plain line now and then.

The bar is for terminals. Into a file or a pipe goes one line about every ten seconds, so that logs stay readable.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 10.0
_ESTIMATED_OVER = 3600.0  # seconds: the cells of a grid end minutes apart, and rich forgets after half of one


_hidden = False


def hide() -> None:
    """Show no progress from here on: of several processes that work together, one shows it for all."""
    global _hidden
    _hidden = True


class Tracker(Protocol):
    """Told by the work how far it is."""

    def advance(self, count: int = 1, *, loss: float | None = None) -> None:
        """Count `count` more units as done; `loss` is shown beside them."""
        ...


@contextmanager
def track(description: str, total: int, *, done: int = 0) -> Iterator[Tracker]:
    """Show the progress of the block.

    Args:
        description: what is being done, a few words.
        total: units of work in all.
        done: units that were done before, when the work resumes.
    """
    console = Console(stderr=True, quiet=_hidden)
    if _hidden or not console.is_terminal:
        yield _Lines(console, description, total, done)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=console, speed_estimate_period=_ESTIMATED_OVER) as progress:
        yield _Bar(progress, progress.add_task(description, total=total, completed=done, loss=""))


def announce(text: str) -> None:
    """Say something in one line, above the bar if one is shown."""
    Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)


class _Bar:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self.progress, self.task = progress, task

    def advance(self, count: int = 1, *, loss: float | None = None) -> None:
        if loss is not None:
            self.progress.update(self.task, loss=f"loss {loss:.4g}")
        self.progress.advance(self.task, count)


class _Lines:
    def __init__(self, console: Console, description: str, total: int, done: int) -> None:
        self.console, self.description, self.total = console, description, total
        self.done = self.done_before = done
        self.started = self.last_line = time.monotonic()

    def advance(self, count: int = 1, *, loss: float | None = None) -> None:
        self.done += count
        now = time.monotonic()
        if self.done < self.total and now - self.last_line < _SECONDS_BETWEEN_LINES:
            return
        self.last_line = now
        elapsed = now - self.started
        left = elapsed / max(self.done - self.done_before, 1) * (self.total - self.done)
        parts = [f"{self.description}: {self.done}/{self.total}"]
        if loss is not None:
            parts.append(f"loss {loss:.4g}")
        parts.append(f"{left:.0f} s left" if self.done < self.total else f"done in {elapsed:.0f} s")
        self.console.print(", ".join(parts), markup=False, highlight=False, soft_wrap=True)
