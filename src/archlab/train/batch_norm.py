"""Batch normalisation over the batch of all processes, which `nn.SyncBatchNorm` does on GPUs alone.

Shape legend: B samples of this process, C channels.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from archlab.objectives.global_batch import is_spread, mean, place


def normalise_together(model: nn.Module) -> None:
    """Let every batch norm of `model` see the batch of all processes, wherever a batch is spread over them.

    Elsewhere, and in evaluation, they do what they did; so do names and values in the state dict.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            _see_all(module)


def _see_all(norm: Any) -> None:
    alone = norm.forward

    @wraps(alone)
    def forward(x: Tensor) -> Tensor:
        if not (is_spread() and norm.training):
            return alone(x)
        rows = x.float().transpose(0, 1).flatten(1).T  # (B * ..., C)
        centre = mean(rows)  # (C)
        centred = rows - centre
        variance = mean(centred.square())
        with torch.no_grad():
            count = place(len(rows))[1]
            norm.num_batches_tracked.add_(1)
            norm.running_mean.lerp_(centre, norm.momentum)
            norm.running_var.lerp_(variance * count / (count - 1), norm.momentum)
        scaled = centred * (variance + norm.eps).rsqrt() * norm.weight + norm.bias
        return scaled.T.unflatten(1, (len(x), *x.shape[2:])).transpose(0, 1).to(x.dtype)

    norm.forward = forward
