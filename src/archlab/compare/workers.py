"""Independent runs side by side, each in a process of its own.

Models this small leave a second core half idle: two processes of one thread finish sooner than one of two threads, and
both arms train under the same load. Every run saves its own state, so that interrupting them all loses nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from archlab.config import CompareConfig, RunConfig, to_yaml
from archlab.train.run import train_run
from archlab.train.setup import Setup

_INTERRUPTED = 130
_setups: dict[str, Setup] = {}


@dataclass(frozen=True)
class Job:
    """A run to train: what, where, and how to call it beside its progress."""

    plan: RunConfig
    folder: Path
    name: str


def train_all(jobs: Sequence[Job], config: CompareConfig, trials: bool) -> None:
    """Train what is not yet trained, `config.workers` runs at a time, and score it on the test splits if `trials`.

    The results are in the runs' folders: `train_run` and `try_run` open them from there.

    Raises:
        UserError: of a run.
        KeyboardInterrupt: interrupted; all runs have saved their states.
    """
    for _ in side_by_side(_work, [(job, config, trials) for job in jobs], config.workers):
        pass


def side_by_side(
    work: Callable[..., Any], calls: Sequence[tuple[Any, ...]], workers: int
) -> Generator[Any, None, None]:
    """Call `work` with each of `calls` in processes that share the cores; yields the results as they come.

    Args:
        work: an importable function. When the parent is interrupted, so is it, once.
        workers: processes; calls are begun in their order.

    Raises:
        Exception: whatever `work` raised; what else is running is interrupted.
        MemoryError: a worker was killed.
        KeyboardInterrupt: a worker was interrupted by itself.
    """
    context = multiprocessing.get_context("spawn")  # a fork would inherit threads that do not survive it
    threads = max(1, torch.get_num_threads() // workers)
    with ProcessPoolExecutor(workers, context, initializer=_start, initargs=(threads,)) as pool:
        futures = [pool.submit(work, *call) for call in calls]
        processes = multiprocessing.active_children()
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool:
            pool.shutdown()  # until then, exit codes are not known
            if any(process.exitcode == _INTERRUPTED for process in processes):
                raise KeyboardInterrupt from None
            raise MemoryError("a worker was killed, as the operating system does when memory runs out") from None
        except BaseException:
            for worker in multiprocessing.active_children():
                if worker.pid is not None:
                    os.kill(worker.pid, signal.SIGINT)
            pool.shutdown(cancel_futures=True)
            raise


def leave() -> NoReturn:
    """End a worker that was interrupted and has saved its state, before the pool hands out the next call."""
    os._exit(_INTERRUPTED)


def _start(threads: int) -> None:
    os.setpgrp()  # Ctrl-C reaches the parent alone, which passes it on once: a second one would not wait for the save
    os.environ["TTY_COMPATIBLE"] = "0"  # bars of several processes would overwrite each other: print lines
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED))  # between runs; the training loop has its own
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Interrupt this worker once its parent is gone, which may have been killed without a word."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGINT)


def _work(job: Job, config: CompareConfig, trials: bool) -> None:
    from archlab.compare.trial import try_run

    key = to_yaml(config)  # one worker does several jobs of one comparison
    if key not in _setups:
        _setups[key] = Setup.prepare(config.run)
    setup = _setups[key]
    try:
        run = train_run(job.plan, setup, job.folder, job.name)
    except KeyboardInterrupt:
        leave()
    if trials:
        try_run(run, setup, config)
