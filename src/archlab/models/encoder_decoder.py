"""The first Transformer ("Attention is all you need", arXiv 1706.03762): an encoder-decoder with sinusoidal positions.

Shape legend: B samples, S source tokens, T target tokens, W width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Literal

import torch
from torch import Tensor, nn

from archlab.config import Section
from archlab.layers import masks
from archlab.layers.attention import Attention
from archlab.layers.block import Block, CrossBlock
from archlab.layers.cache import DecoderCache
from archlab.layers.causal import causal_context, real_positions
from archlab.layers.embeddings import TokenEmbedding, output_logits
from archlab.layers.feedforward import MLP
from archlab.layers.positions import sinusoidal
from archlab.rules import Count, Positive


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderConfig(Section):
    """Shape of the first Transformer (table 3); the defaults are the base model."""

    vocab_size: Count = 37000
    """Shared by source and target; "about 37000" in the paper."""
    context: Count = 1024
    """Most tokens of a sequence."""
    width: Count = 512
    depth: Count = 6
    """Blocks of the encoder."""
    decoder_depth: Count = 6
    heads: Count = 8
    feed_forward: Count = 2048
    activation: Literal["relu", "silu"] = "relu"
    """Of the feed-forward layers; the released models of Marian have SiLU, which they call swish."""
    pre_norm: bool = False
    """Norms before the parts of a block and one after each stack (arXiv 2002.04745), instead of after each sum."""
    norm_eps: Positive = 1e-5


def _norm(config: EncoderDecoderConfig) -> nn.LayerNorm:
    return nn.LayerNorm(config.width, eps=config.norm_eps)


def _attention(config: EncoderDecoderConfig) -> Attention:
    return Attention(config.width, config.heads, bias=True)


def _feed_forward(config: EncoderDecoderConfig) -> MLP:
    """Section 3.3."""
    return MLP(config.width, config.feed_forward, activation=config.activation)


def _encoder_block(config: EncoderDecoderConfig) -> Block:
    return Block(_norm(config), _attention(config), _norm(config), _feed_forward(config), post_norm=not config.pre_norm)


def _decoder_block(config: EncoderDecoderConfig) -> CrossBlock:
    return CrossBlock(
        _norm(config),
        _attention(config),
        _norm(config),
        _attention(config),
        _norm(config),
        _feed_forward(config),
        post_norm=not config.pre_norm,
    )


class EncoderDecoderTransformer(nn.Module):
    """Source and target tokens to next-token logits; see `models.protocols.EncoderDecoder`.

    One table embeds source and target, multiplied by sqrt(W), and is the output layer (section 3.4).

    Differs from the paper: no dropout; the projections of attention have biases, as in most implementations; sines and
    cosines are concatenated instead of interleaved, a permutation of features; positions count real tokens only. What
    is added to the logits, `output_bias`, is zero and not trained: only the released models of Marian have one.

    Args:
        config: shape of the model.

    Raises:
        UserError: the heads do not divide the width, or the width is odd.
    """

    positions: Tensor
    output_bias: Tensor

    def __init__(self, config: EncoderDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = TokenEmbedding(config.vocab_size, config.width)
        self.register_buffer("positions", sinusoidal(torch.arange(config.context), config.width), persistent=False)
        self.encoder_blocks = nn.ModuleList(_encoder_block(config) for _ in range(config.depth))
        self.encoder_norm = _norm(config) if config.pre_norm else nn.Identity()
        self.decoder_blocks = nn.ModuleList(_decoder_block(config) for _ in range(config.decoder_depth))
        self.decoder_norm = _norm(config) if config.pre_norm else nn.Identity()
        self.head: nn.Module | None = None  # the output layer is the token table
        self.register_buffer("output_bias", torch.zeros(config.vocab_size))
        _initialize(self)

    def new_cache(self) -> list[DecoderCache]:
        """Empty caches, one per block of the decoder."""
        return [DecoderCache() for _ in self.decoder_blocks]

    def encode(self, source: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """(B, S) -> (B, S, W); see `models.protocols.EncoderDecoder`."""
        positions = real_positions(source, mask, source.shape[1], self.config.context)  # (B or 1, S)
        x = self.token_embedding(source) + self.positions[positions]  # (B, S, W)
        attend = None if mask is None else masks.padding(mask)
        for block in self.encoder_blocks:
            x = block(x, mask=attend)
        return self.encoder_norm(x)

    def decode(
        self,
        target: Tensor,
        memory: Tensor,
        *,
        mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        cache: Sequence[DecoderCache] | None = None,
    ) -> Tensor:
        """(B, T) and (B, S, W) -> (B, T, V); see `models.protocols.EncoderDecoder`."""
        seen = [kept.tokens for kept in cache] if cache else None
        at = causal_context(target, mask=mask, cache=seen, limit=self.config.context)
        x = self.token_embedding(target) + self.positions[at.positions]  # (B, T, W)
        attend = None if memory_mask is None else masks.padding(memory_mask)
        for block, kept in zip(self.decoder_blocks, cache or repeat(None, self.config.decoder_depth), strict=True):
            x = block(x, memory=memory, mask=at.mask, memory_mask=attend, cache=kept)
        # The bias goes into the product: added to it, it would cost a copy of all logits.
        return output_logits(self.decoder_norm(x), self.head, self.token_embedding.weight, self.output_bias)

    def forward(
        self, source: Tensor, target: Tensor, *, source_mask: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """(B, S) and (B, T) -> (B, T, V); see `models.protocols.EncoderDecoder`."""
        memory = self.encode(source, mask=source_mask)
        return self.decode(target, memory, mask=mask, memory_mask=source_mask)


def _initialize(model: EncoderDecoderTransformer) -> None:
    """Linear layers as in the released code (tensor2tensor): uniform after Glorot, biases zero.

    The token table has drawn itself; gains are one.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
