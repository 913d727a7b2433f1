"""A learned gain per feature on what a part of a block adds to the residual stream (CaiT, arXiv 2103.17239, section 2).

Shape legend: B samples, T tokens, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from archlab.layers.attention import Attention
from archlab.layers.block import Block
from archlab.layers.cache import KVCache
from archlab.layers.positions import Rotation


class LayerScale(nn.Module):
    """x * gain over the last axis.

    Args:
        width: W.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Scale (..., W)."""
        return x * self.gain


class ScaledBlock(Block):
    """Pre-norm residual block whose attention and feed-forward are scaled before they are added.

    Args:
        attention_norm, attention, feed_forward_norm, feed_forward: see `Block`.
        width: W.
    """

    def __init__(
        self,
        attention_norm: nn.Module,
        attention: Attention,
        feed_forward_norm: nn.Module,
        feed_forward: nn.Module,
        *,
        width: int,
    ) -> None:
        super().__init__(attention_norm, attention, feed_forward_norm, feed_forward)
        self.attention_scale = LayerScale(width)
        self.feed_forward_scale = LayerScale(width)

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        rotation: Rotation | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """See `Block`."""
        mixed = self.attention(self.attention_norm(x), mask=mask, rotation=rotation, cache=cache)
        x = x + self.attention_scale(mixed)
        return x + self.feed_forward_scale(self.feed_forward(self.feed_forward_norm(x)))
