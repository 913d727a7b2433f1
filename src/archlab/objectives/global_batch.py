"""The batch as a whole, where its samples are spread over processes.

A loss that is a mean over samples, or that looks at several of them at once, must see those of all processes. Inside
`spread`, an objective returns its process's *share* of the loss: the mean of the shares over the processes is the loss
of the whole batch. Gradients are averaged over the processes too (DDP and FSDP do), so they are those of the whole
batch. Outside, every function here gives back what a single process has, bit for bit.

Shape legend: b rows of this process, B rows of all processes, in the order of their ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.autograd import Function

_spread: ContextVar[bool] = ContextVar("spread", default=False)


@contextmanager
def spread() -> Iterator[None]:
    """Every process of the default group is in this block with its rows of one batch.

    What one process does alone, an evaluation for instance, must stay outside: it would wait for the others for ever.
    """
    token = _spread.set(True)
    try:
        yield
    finally:
        _spread.reset(token)


def is_spread() -> bool:
    """Whether the batch is spread over several processes here."""
    return _spread.get()


def counts(own: int) -> list[int]:
    """The number of rows of every process, given that of this one."""
    if not is_spread():
        return [own]
    every = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size())]
    dist.all_gather(every, torch.tensor([own]))
    return [int(one) for one in every]


def place(own: int) -> tuple[int, int]:
    """Where the rows of this process begin among all, and how many there are in all: (first, B)."""
    sizes = counts(own)
    return sum(sizes[: dist.get_rank()]) if is_spread() else 0, sum(sizes)


def gather(rows: Tensor) -> Tensor:
    """The rows of all processes (B, ...), given those of this one (b, ...); gradients flow back to where they are."""
    return _Gather.apply(rows, counts(len(rows))) if is_spread() else rows


def share(mean: Tensor, weight: Tensor | int) -> Tensor:
    """This process's share of a mean over all targets.

    Args:
        mean: over the targets of this process, a scalar; whatever it is where there are none.
        weight: their number.
    """
    if not is_spread():
        return mean
    own = torch.as_tensor(weight, dtype=torch.float64, device=mean.device)
    total = own.clone()
    dist.all_reduce(total)
    factor = own * dist.get_world_size() / total.clamp(min=1)
    return torch.where(own > 0, mean * factor.to(mean.dtype), 0.0)


def mean(rows: Tensor) -> Tensor:
    """Mean over the rows of all processes, given those of this one (b, ...): (...)."""
    return _Sum.apply(rows.sum(0)) / place(len(rows))[1] if is_spread() else rows.mean(0)


def same(drawn: Tensor) -> Tensor:
    """What the first process drew at random; the others draw too, and theirs is forgotten."""
    if is_spread():
        dist.broadcast(drawn, 0)
    return drawn


def own_rows_of(draw: Callable[[int], Tensor], own: int) -> Tensor:
    """Rows of this process (b, ...) in what the first one draws at random for all: it draws as one process would.

    Args:
        draw: number of rows -> their random values.
        own: b.
    """
    first, total = place(own)
    return same(draw(total))[first : first + own]


class _Gather(Function):
    """The rows of all processes; a row's gradient is the sum of what all processes have for it."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: list[int]) -> Tensor:
        ctx.first, ctx.own = sum(sizes[: dist.get_rank()]), len(rows)
        # Padded to equal numbers, which is all that every backend gathers.
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])
        padded[: len(rows)] = rows
        every = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(every, padded)
        return torch.cat([one[:size] for one, size in zip(every, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        summed = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed[ctx.first : ctx.first + ctx.own], None


class _Sum(Function):
    """The sum over the processes, and of its gradients."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        total = own.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total
