"""Which weights of a trained arm go: the smallest entries, or the heads and channels that matter least.

Shape legend: B samples, T tokens, K heads (groups of heads that share keys), D width of a group, F hidden channels.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from archlab.data.batch import Batch
from archlab.layers.pruning import keep_channels, keep_heads, parts_of


def prune_magnitude(arm: nn.Module, sparsity: float) -> None:
    """Set the smallest entries of all linear layers together to zero, and hold them there (arXiv 1506.02626).

    Token tables stay whole: rare words have small vectors. Until `settle` the zeros are a mask that training respects.

    Args:
        sparsity: share of the entries.
    """
    prune.global_unstructured(
        [(layer, "weight") for layer in _trained_layers(arm)], prune.L1Unstructured, amount=sparsity
    )


def settle(arm: nn.Module) -> None:
    """Make the zeros of `prune_magnitude` plain weights."""
    for layer in arm.modules():
        if isinstance(layer, nn.Linear) and prune.is_pruned(layer):
            prune.remove(layer, "weight")


def _trained_layers(arm: nn.Module) -> list[nn.Linear]:
    return [layer for layer in arm.modules() if isinstance(layer, nn.Linear) and layer.weight.requires_grad]


@dataclass(frozen=True)
class Importance:
    """Of one block; larger is worse to lose.

    Attributes:
        heads: (K,).
        channels: (F,).
    """

    heads: Tensor
    channels: Tensor


def importance(arm: Any, objective: nn.Module, batches: Iterable[Batch]) -> list[Importance]:
    """How much the loss would change, to first order, if a head or a channel of the trunk were silent.

    It is the mean over samples of |sum of activation x gradient|: the gradient of the loss with respect to a gate on
    the head (arXiv 1905.10650, section 4.1), and to one on the channel.

    Args:
        arm: with `backbone.trunk`, all of which takes part in the loss.
        objective: the loss that it was trained by.
        batches: of training examples.

    Returns:
        one entry per block of the trunk.
    """
    blocks = [parts_of(block) for block in arm.backbone.trunk.blocks]
    sums = [[torch.zeros(attention.key_value_heads), torch.zeros(layer.down_proj.in_features)]
            for attention, layer in blocks]  # fmt: skip
    arm.eval()
    samples = 0
    with ExitStack() as hooks:
        for (attention, layer), (heads, channels) in zip(blocks, sums, strict=True):
            for read, into in ((attention.out_proj, heads), (layer.down_proj, channels)):
                hooks.callback(read.register_forward_pre_hook(partial(_watch, into)).remove)
        for batch in batches:
            samples += len(batch.features)
            objective(arm, batch).loss.backward()
            arm.zero_grad(set_to_none=True)
    return [Importance(heads / samples, channels / samples) for heads, channels in sums]


def _watch(into: Tensor, layer: nn.Module, given: tuple[Tensor]) -> None:
    """Add the share of every gate before the layer, once its gradient is known, to `into`."""
    (read,) = given  # (B, T, K * D) or (B, T, F)

    def add(gradient: Tensor) -> None:
        gates = (read.detach() * gradient).unflatten(-1, (len(into), -1)).sum((1, -1))  # (B, K) or (B, F)
        into.add_(gates.abs().sum(0).cpu())

    read.register_hook(add)


def prune_structured(arm: Any, scores: Iterable[Importance], heads: int, channels: int) -> None:
    """Take the least important heads and channels out of every block of the trunk: equally many in each.

    So that all blocks stay alike, as hardware, caches and attention maps like them (arXiv 2407.14679, section 2).

    Args:
        heads, channels: how many stay in each.
    """
    for block, score in zip(arm.backbone.trunk.blocks, scores, strict=True):
        attention, layer = parts_of(block)
        keep_heads(attention, _best(score.heads, heads))
        keep_channels(layer, _best(score.channels, channels))


def _best(scores: Tensor, count: int) -> Tensor:
    """Indices of the highest scores, in their order."""
    return scores.topk(count).indices.sort().values
