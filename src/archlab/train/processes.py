"""The processes of a job: torchrun starts them, they join each other, and the job speaks with one voice.

    torchrun --nproc-per-node 4 -m archlab train CONFIG

Without `joined`, there is one process and everything here is as if this file did not exist.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from archlab import progress
from archlab.errors import UserError

Result = TypeVar("Result")
Batch = TypeVar("Batch")

# One process computes features and evaluates while the others wait. That a process died is not found by waiting: its
# connections close, and torchrun ends the others.
_PATIENCE = timedelta(hours=24)
_LOST = (
    "a process of this job is gone while the others still trained; its own message or torchrun's report below names "
    "it. The same command resumes the run from its last save"
)


@contextmanager
def joined() -> Iterator[None]:
    """Join the other processes of the job for the block. Of what makes them end, only the first to notice speaks.

    Raises:
        UserError: another process died, or torchrun did not start this one.
        SystemExit: another process has already said why the job ends.
    """
    try:
        store, rank, count = next(rendezvous("env://"))
    except ValueError as error:
        raise UserError(f"WORLD_SIZE={os.environ.get('WORLD_SIZE')}: {error}; start the job with torchrun") from None
    if torch.cuda.is_available():
        torch.cuda.set_device(_local_rank() % torch.cuda.device_count())
    # torchrun may start all anew after one died: what was said before is another job's.
    said = PrefixStore(f"said/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=PrefixStore("job", store), rank=rank, world_size=count, timeout=_PATIENCE)
    if rank:
        progress.hide()
    previous = signal.signal(signal.SIGTERM, _stop)  # what torchrun sends when a process died, and when it is stopped
    try:
        yield
    except BaseException as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # from here on it only has to say why
        lost = _means_a_loss(error) or _means_a_loss(error.__context__)
        if isinstance(error, KeyboardInterrupt) and not lost:
            raise
        if _said(said):
            raise SystemExit(2) from None
        if lost:
            raise UserError(_LOST) from None
        raise
    else:
        signal.signal(signal.SIGTERM, previous)
        dist.destroy_process_group()


def count() -> int:
    """Number of processes of the job."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0 on."""
    return dist.get_rank() if dist.is_initialized() else 0


def once(work: Callable[[], Result]) -> Result:
    """What `work` returns, or raises: the first process does it for all."""
    if count() == 1:
        return work()
    outcome: list[Any] = [None, None]
    if rank() == 0:
        try:
            outcome = [work(), None]
        except Exception as error:
            outcome = [None, error]
    dist.broadcast_object_list(outcome, 0, device=torch.device("cpu"))
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def everyone(value: Result) -> list[Result]:
    """The values of all processes."""
    values: list[Any] = [value] * count()
    if count() > 1:
        dist.all_gather_object(values, value)
    return values


@dataclass(frozen=True)
class OwnMachine:
    """The processes of the job on this process's machine; see `data.features.Machine`."""

    number: int
    count: int
    first: int

    def everyone(self, value: Result) -> list[Result]:
        """The values of all processes, of other machines too."""
        return everyone(value)


def own_machine() -> OwnMachine:
    """That of this process."""
    number = _local_rank()
    return OwnMachine(number, int(os.environ.get("LOCAL_WORLD_SIZE", "1")), rank() - number)


def own_part(size: int) -> slice:
    """Which rows of a batch of `size` are those of this process: consecutive, as many as others have or one more."""
    least, more = divmod(size, count())
    first = rank() * least + min(rank(), more)
    return slice(first, first + least + (rank() < more))


def own_rows(batch: Batch) -> Batch:
    """The rows of this process in a batch, a dataclass of tensors; some that begins with something else cuts itself."""
    if count() == 1:
        return batch
    if hasattr(batch, "rows"):
        return batch.rows(own_part)
    values = {one.name: getattr(batch, one.name) for one in fields(batch)}  # type: ignore[arg-type]
    part = own_part(max(len(value) for value in values.values() if isinstance(value, Tensor)))
    cut: Any = {name: value[part] for name, value in values.items()}
    return replace(batch, **cut)  # type: ignore[type-var]


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _means_a_loss(error: BaseException | None) -> bool:
    """Whether this is what a collective raises when a process at its other end is gone."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _said(said: Store) -> bool:
    """Whether another process has said why the job ends; if not, this one now has the word."""
    try:
        return said.add("by", 1) > 1
    except (dist.DistError, RuntimeError):  # the store's machine is gone too
        return False
