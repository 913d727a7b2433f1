"""Heads and feed-forward channels that are taken out of a layer for good: what is left is a smaller layer of its kind.

Shape legend: W width, K key-value heads, D width of a head, F hidden width of a feed-forward layer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from archlab.errors import UserError
from archlab.layers.attention import Attention
from archlab.layers.block import TransformerStack
from archlab.layers.feedforward import GatedMLP


def keep_heads(attention: Attention, heads: Tensor) -> None:
    """Leave only some heads; where several share keys and values, only some groups of them.

    Args:
        heads: indices of what stays, of the K groups.
    """
    count = attention.key_value_heads
    for name in ("q_proj", "k_proj", "v_proj"):
        layer = getattr(attention, name)
        setattr(attention, name, _rows(layer, _members(heads, layer.out_features // count)))
    attention.out_proj = _columns(attention.out_proj, _members(heads, attention.out_proj.in_features // count))


def keep_channels(layer: GatedMLP, channels: Tensor) -> None:
    """Leave only some hidden channels, by their indices among F."""
    layer.gate_proj, layer.up_proj = _rows(layer.gate_proj, channels), _rows(layer.up_proj, channels)
    layer.down_proj = _columns(layer.down_proj, channels)


def narrow(stack: TransformerStack, heads: int, feed_forward: int) -> None:
    """Leave the first so many heads and channels in each block: the shape that weights of a pruned stack need.

    Args:
        heads, feed_forward: 0 leaves all.

    Raises:
        UserError: a block has fewer.
    """
    if not (heads or feed_forward):
        return
    for block in stack.blocks:
        attention, layer = parts_of(block)
        for name, wanted, there in (
            ("heads", heads, attention.key_value_heads),
            ("feed_forward", feed_forward, layer.down_proj.in_features),
        ):
            if wanted > there:
                raise UserError(f"{name}={wanted}: a block of the trunk has {there} to keep; give at most as many")
        if heads:
            keep_heads(attention, torch.arange(heads))
        if feed_forward:
            keep_channels(layer, torch.arange(feed_forward))


def parts_of(block: Any) -> tuple[Attention, GatedMLP]:
    """The two parts of a block of a trunk."""
    assert isinstance(block.attention, Attention)
    assert isinstance(block.feed_forward, GatedMLP)
    return block.attention, block.feed_forward


def _members(groups: Tensor, size: int) -> Tensor:
    """Indices of the members of groups of `size` neighbours."""
    return (groups[:, None] * size + torch.arange(size, device=groups.device)).flatten()


def _rows(layer: nn.Linear, index: Tensor) -> nn.Linear:
    bias = None if layer.bias is None else layer.bias[index.to(layer.weight.device)]
    return _linear(layer.weight[index.to(layer.weight.device)], bias)


def _columns(layer: nn.Linear, index: Tensor) -> nn.Linear:
    return _linear(layer.weight[:, index.to(layer.weight.device)], layer.bias)


@torch.no_grad()
def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    outputs, inputs = weight.shape
    # Nothing is drawn: what a run draws must not depend on how much of it is left.
    layer: nn.Linear = skip_init(
        nn.Linear, inputs, outputs, bias=bias is not None, device=weight.device, dtype=weight.dtype
    )
    layer.weight.copy_(weight)
    if bias is not None:
        layer.bias.copy_(bias)
    return layer
