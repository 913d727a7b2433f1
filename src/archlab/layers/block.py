"""The residual block and the stack of them that trunk, target encoder and text decoder share.

Shape legend: B samples, T tokens, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat

import torch
from torch import Tensor, nn

from archlab.config import TransformerConfig
from archlab.layers.attention import Attention
from archlab.layers.cache import KVCache
from archlab.layers.feedforward import GatedMLP
from archlab.layers.initialization import initialize
from archlab.layers.norms import RMSNorm
from archlab.layers.positions import RotaryEmbedding, Rotation


class Block(nn.Module):
    """Pre-norm residual block: attention, then feed-forward, each reading a normalised copy of the stream.

    Args:
        attention_norm, attention, feed_forward_norm, feed_forward: the parts, in the order of use; `attention` is
            called as `Attention` is.
    """

    def __init__(
        self, attention_norm: nn.Module, attention: nn.Module, feed_forward_norm: nn.Module, feed_forward: nn.Module
    ) -> None:
        super().__init__()
        self.attention_norm = attention_norm
        self.attention = attention
        self.feed_forward_norm = feed_forward_norm
        self.feed_forward = feed_forward

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        rotation: Rotation | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """(B, T, W) -> (B, T, W); the other arguments are those of `Attention.forward`."""
        x = x + self.attention(self.attention_norm(x), mask=mask, rotation=rotation, cache=cache)
        return x + self.feed_forward(self.feed_forward_norm(x))


class SandwichBlock(Block):
    """Residual block with a norm before and after attention, and before and after feed-forward (Gemma 2, section 2).

    Args:
        attention_norm, attention, attention_post_norm, feed_forward_norm, feed_forward, feed_forward_post_norm: the
            parts, in the order of use.
    """

    def __init__(
        self,
        attention_norm: nn.Module,
        attention: Attention,
        attention_post_norm: nn.Module,
        feed_forward_norm: nn.Module,
        feed_forward: nn.Module,
        feed_forward_post_norm: nn.Module,
    ) -> None:
        super().__init__(attention_norm, attention, feed_forward_norm, feed_forward)
        self.attention_post_norm = attention_post_norm
        self.feed_forward_post_norm = feed_forward_post_norm

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
        x = x + self.attention_post_norm(mixed)
        return x + self.feed_forward_post_norm(self.feed_forward(self.feed_forward_norm(x)))


class TransformerStack(nn.Module):
    """Blocks in the manner of LLaMA (arXiv 2302.13971, section 2.2): RMSNorm, rotary attention, SwiGLU, no biases.

    Reads embeddings and returns normalised hidden states; embedding and head belong to the model around it.

    Args:
        config: size of the stack.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.rotary = RotaryEmbedding(config.width // config.heads)
        self.blocks = nn.ModuleList(
            Block(
                RMSNorm(config.width),
                Attention(config.width, config.heads),
                RMSNorm(config.width),
                GatedMLP(config.width, config.feed_forward),
            )
            for _ in range(config.depth)
        )
        self.norm = RMSNorm(config.width)
        initialize(self, config.depth, std=config.width**-0.5)  # 0.02, GPT-2's, is this at its width of 2500

    @property
    def depth(self) -> int:
        """Number of blocks, and of caches."""
        return len(self.blocks)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        caches: Sequence[KVCache] | None = None,
    ) -> Tensor:
        """Hidden states after the final norm.

        Args:
            x: embeddings (B, T, W).
            mask: True = may attend, as `layers.masks` builds them; None lets all attend to all. Its last axis counts
                what the caches hold.
            positions: absolute positions (B, T); by default the tokens follow those in the caches.
            caches: one per block, extended by this call.

        Returns:
            (B, T, W).
        """
        if positions is None:
            start = caches[0].length if caches else 0
            positions = torch.arange(start, start + x.shape[1], device=x.device)[None]  # (1, T)
        rotation = self.rotary(positions)
        for block, cache in zip(self.blocks, caches or repeat(None, self.depth), strict=True):
            x = block(x, mask=mask, rotation=rotation, cache=cache)
        return self.norm(x)
