"""Residual blocks, and the stack of them that trunk, target encoder and text decoder share.

Shape legend: B samples, T tokens, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn

from archlab.config import TransformerConfig
from archlab.layers import masks
from archlab.layers.attention import Attention
from archlab.layers.cache import DecoderCache, KVCache
from archlab.layers.feedforward import GatedMLP
from archlab.layers.initialization import initialize
from archlab.layers.norms import RMSNorm
from archlab.layers.positions import RotaryEmbedding, Rotation


class Block(nn.Module):
    """Residual block: attention, then feed-forward.

    Pre-norm: each part reads a normalised copy of the stream, which is never normalised itself (GPT-2, section 2.3).
    Post-norm: each sum is normalised ("Attention is all you need", section 3.1).

    Args:
        attention_norm, attention, feed_forward_norm, feed_forward: the parts, in the order of use when pre-norm;
            `attention` reads what `forward` is given.
        post_norm: which of the two.
    """

    def __init__(
        self,
        attention_norm: nn.Module,
        attention: nn.Module,
        feed_forward_norm: nn.Module,
        feed_forward: nn.Module,
        *,
        post_norm: bool = False,
    ) -> None:
        super().__init__()
        self.post_norm = post_norm
        self.attention_norm = attention_norm
        self.attention = attention
        self.feed_forward_norm = feed_forward_norm
        self.feed_forward = feed_forward

    def forward(self, x: Tensor, **given: Any) -> Tensor:
        """(B, T, W) -> (B, T, W); what else is given is for the attention: mask, rotation, cache, bias."""

        def attend(states: Tensor) -> Tensor:
            return self.attention(states, **given)

        x = _add(x, self.attention_norm, attend, self.post_norm)
        return _add(x, self.feed_forward_norm, self.feed_forward, self.post_norm)


class CrossBlock(nn.Module):
    """Block of a decoder that also reads a memory: attention, cross-attention, feed-forward (same paper, section 3.1).

    Args:
        attention_norm, attention, cross_attention_norm, cross_attention, feed_forward_norm, feed_forward: the parts.
        post_norm: see `Block`.
    """

    def __init__(
        self,
        attention_norm: nn.Module,
        attention: Attention,
        cross_attention_norm: nn.Module,
        cross_attention: Attention,
        feed_forward_norm: nn.Module,
        feed_forward: nn.Module,
        *,
        post_norm: bool = False,
    ) -> None:
        super().__init__()
        self.post_norm = post_norm
        self.attention_norm = attention_norm
        self.attention = attention
        self.cross_attention_norm = cross_attention_norm
        self.cross_attention = cross_attention
        self.feed_forward_norm = feed_forward_norm
        self.feed_forward = feed_forward

    def forward(
        self,
        x: Tensor,
        *,
        memory: Tensor,
        mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        bias: Tensor | None = None,
        rotation: Rotation | None = None,
        cache: DecoderCache | None = None,
    ) -> Tensor:
        """(B, T, W) -> (B, T, W).

        Args:
            memory: states of the encoder (B, S, W).
            mask, bias, rotation: of the attention to `x` itself, see `Attention.forward`.
            memory_mask: True = may attend to the memory, broadcasting to (B, H, T, S).
            cache: extended by this call; the first call also keeps keys and values of the memory.
        """

        def attend(states: Tensor) -> Tensor:
            kept = cache.tokens if cache else None
            return self.attention(states, mask=mask, bias=bias, rotation=rotation, cache=kept)

        def read(states: Tensor) -> Tensor:
            kept = cache.memory if cache else None
            return self.cross_attention(states, memory=memory, mask=memory_mask, cache=kept)

        x = _add(x, self.attention_norm, attend, self.post_norm)
        x = _add(x, self.cross_attention_norm, read, self.post_norm)
        return _add(x, self.feed_forward_norm, self.feed_forward, self.post_norm)


def _add(x: Tensor, norm: nn.Module, part: Callable[[Tensor], Tensor], post_norm: bool) -> Tensor:
    """The stream (B, T, W) after one part of a block."""
    return norm(x + part(x)) if post_norm else x + part(norm(x))


class SandwichBlock(Block):
    """Pre-norm residual block in which something follows attention and feed-forward before they are added.

    It is a second norm (Gemma 2, section 2), or a learned gain per feature (`layers.layer_scale`).

    Args:
        attention_norm, attention, after_attention, feed_forward_norm, feed_forward, after_feed_forward: the parts, in
            the order of use.
    """

    def __init__(
        self,
        attention_norm: nn.Module,
        attention: nn.Module,
        after_attention: nn.Module,
        feed_forward_norm: nn.Module,
        feed_forward: nn.Module,
        after_feed_forward: nn.Module,
    ) -> None:
        super().__init__(attention_norm, attention, feed_forward_norm, feed_forward)
        self.after_attention = after_attention
        self.after_feed_forward = after_feed_forward

    def forward(self, x: Tensor, **given: Any) -> Tensor:
        """See `Block`."""
        x = x + self.after_attention(self.attention(self.attention_norm(x), **given))
        return x + self.after_feed_forward(self.feed_forward(self.feed_forward_norm(x)))


class _Stack(nn.Module):
    """Rotary positions, blocks and a final norm; `block` makes each of the blocks."""

    def __init__(self, config: TransformerConfig, block: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.rotary = RotaryEmbedding(config.width // config.heads)
        self.blocks = nn.ModuleList(block() for _ in range(config.depth))
        self.norm = RMSNorm(config.width)
        initialize(self, config.depth, std=config.width**-0.5)  # 0.02, GPT-2's, is this at its width of 2500

    @property
    def depth(self) -> int:
        """Number of blocks, and of caches."""
        return len(self.blocks)


class TransformerStack(_Stack):
    """Blocks in the manner of LLaMA (arXiv 2302.13971, section 2.2): RMSNorm, rotary attention, SwiGLU, no biases.

    Reads embeddings and returns normalised hidden states; embedding and head belong to the model around it.

    Args:
        config: size of the stack.
    """

    def __init__(self, config: TransformerConfig) -> None:
        def block() -> Block:
            return Block(
                RMSNorm(config.width),
                Attention(config.width, config.heads),
                RMSNorm(config.width),
                GatedMLP(config.width, config.feed_forward),
            )

        super().__init__(config, block)

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


class CrossStack(_Stack):
    """A `TransformerStack` whose blocks also read a memory, by cross-attention without positions.

    Args:
        config: size of the stack; the memory is as wide.
    """

    def __init__(self, config: TransformerConfig) -> None:
        def block() -> CrossBlock:
            return CrossBlock(
                RMSNorm(config.width),
                Attention(config.width, config.heads),
                RMSNorm(config.width),
                Attention(config.width, config.heads),
                RMSNorm(config.width),
                GatedMLP(config.width, config.feed_forward),
            )

        super().__init__(config, block)

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        memory_mask: Tensor,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        caches: Sequence[DecoderCache] | None = None,
    ) -> Tensor:
        """Hidden states after the final norm.

        Args:
            x: embeddings (B, T, W).
            memory: what is read (B, S, W); memory_mask: True at its real tokens (B, S).
            mask, positions: of `x`, as in `TransformerStack`; by default the positions count from 0.
            caches: one per block, extended by this call.

        Returns:
            (B, T, W).
        """
        if positions is None:
            positions = torch.arange(x.shape[1], device=x.device)[None]  # (1, T)
        rotation, readable = self.rotary(positions), masks.padding(memory_mask)
        for block, cache in zip(self.blocks, caches or repeat(None, self.depth), strict=True):
            x = block(x, memory=memory, memory_mask=readable, mask=mask, rotation=rotation, cache=cache)
        return self.norm(x)
