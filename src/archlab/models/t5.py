"""T5 (arXiv 1910.10683): an encoder-decoder with relative positions, RMSNorm, no biases and unscaled attention scores.

Shape legend: B samples, S source tokens, T target tokens, W width, H heads, D width of a head, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Literal

from torch import Tensor, nn

from archlab.config import Section
from archlab.layers import masks
from archlab.layers.attention import Attention
from archlab.layers.block import Block, CrossBlock
from archlab.layers.cache import DecoderCache
from archlab.layers.causal import causal_context, real_positions
from archlab.layers.embeddings import output_logits
from archlab.layers.feedforward import MLP, GatedMLP
from archlab.layers.norms import RMSNorm
from archlab.layers.position_bias import RelativePositionBias
from archlab.rules import Count, Positive


@dataclass(frozen=True, kw_only=True)
class T5Config(Section):
    """Shape of a T5 (section 2.1); the defaults are T5 small."""

    vocab_size: Count = 32128
    width: Count = 512
    depth: Count = 6
    """Blocks of the encoder."""
    decoder_depth: Count = 6
    heads: Count = 8
    head_width: Count = 64
    feed_forward: Count = 2048
    activation: Literal["relu", "gated-gelu"] = "relu"
    """"gated-gelu" since version 1.1 (arXiv 2002.05202)."""
    tied: bool = True
    """Whether the output layer is the token table, as before version 1.1."""
    buckets: Count = 32
    """Groups of distances that share a learned bias."""
    farthest: Count = 128
    """Distances from here on share the last bucket of their direction."""
    norm_eps: Positive = 1e-6


def _attention(config: T5Config) -> Attention:
    """Scores are not divided by sqrt(D): the initialisation of queries makes up for it."""
    return Attention(config.width, config.heads, head_width=config.head_width, scale=1.0)


def _norm(config: T5Config) -> RMSNorm:
    """A layer normalisation "where the activations are only rescaled and no additive bias is applied"."""
    return RMSNorm(config.width, eps=config.norm_eps)


def _feed_forward(config: T5Config) -> nn.Module:
    if config.activation == "relu":
        return MLP(config.width, config.feed_forward, activation="relu", bias=False)
    return GatedMLP(config.width, config.feed_forward, activation="gelu-tanh")


def _position_bias(config: T5Config, *, bidirectional: bool) -> RelativePositionBias:
    """Shared by all blocks of a stack."""
    return RelativePositionBias(
        config.heads, buckets=config.buckets, farthest=config.farthest, bidirectional=bidirectional
    )


class T5Encoder(nn.Module):
    """Embedded source tokens to the memory that the decoder reads."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.position_bias = _position_bias(config, bidirectional=True)
        self.blocks = nn.ModuleList(
            Block(_norm(config), _attention(config), _norm(config), _feed_forward(config)) for _ in range(config.depth)
        )
        self.norm = _norm(config)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, S, W) -> (B, S, W); `mask` (B, S) is True at real tokens."""
        positions = real_positions(x, mask, x.shape[1], None)
        bias = self.position_bias(positions, positions)  # (B or 1, H, S, S)
        attend = None if mask is None else masks.padding(mask)
        for block in self.blocks:
            x = block(x, mask=attend, bias=bias)
        return self.norm(x)


class T5Decoder(nn.Module):
    """Embedded target tokens and the memory to states; cross-attention has no position bias."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.position_bias = _position_bias(config, bidirectional=False)
        self.blocks = nn.ModuleList(
            CrossBlock(
                _norm(config),
                _attention(config),
                _norm(config),
                _attention(config),
                _norm(config),
                _feed_forward(config),
            )
            for _ in range(config.decoder_depth)
        )
        self.norm = _norm(config)

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        mask: Tensor | None,
        memory_mask: Tensor | None,
        cache: Sequence[DecoderCache] | None,
    ) -> Tensor:
        """(B, T, W) -> (B, T, W); the masks are True at real tokens."""
        seen = [kept.tokens for kept in cache] if cache else None
        at = causal_context(x, mask=mask, cache=seen, limit=None)
        bias = self.position_bias(at.positions, at.key_positions)  # (B or 1, H, T, cached + T)
        attend = None if memory_mask is None else masks.padding(memory_mask)
        for block, kept in zip(self.blocks, cache or repeat(None, len(self.blocks)), strict=True):
            x = block(x, memory=memory, mask=at.mask, memory_mask=attend, bias=bias, cache=kept)
        return self.norm(x)


class T5(nn.Module):
    """Source and target tokens to next-token logits; see `models.protocols.EncoderDecoder`.

    Differs from the paper: no dropout.

    Args:
        config: shape of the model.

    Raises:
        UserError: there are too few buckets, or `farthest` is too small for them.
    """

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.encoder = T5Encoder(config)
        self.decoder = T5Decoder(config)
        self.head: nn.Module | None = None if config.tied else nn.Linear(config.width, config.vocab_size, bias=False)
        _initialize(self)

    def new_cache(self) -> list[DecoderCache]:
        """Empty caches, one per block of the decoder."""
        return [DecoderCache() for _ in self.decoder.blocks]

    def encode(self, source: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """(B, S) -> (B, S, W); see `models.protocols.EncoderDecoder`."""
        return self.encoder(self.token_embedding(source), mask)

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
        x = self.decoder(self.token_embedding(target), memory, mask, memory_mask, cache)  # (B, T, W)
        if self.config.tied:
            # The table has unit variance: without the factor, so would each of the W products of a logit.
            x = x * self.config.width**-0.5
        return output_logits(x, self.head, self.token_embedding.weight)

    def forward(
        self, source: Tensor, target: Tensor, *, source_mask: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """(B, S) and (B, T) -> (B, T, V); see `models.protocols.EncoderDecoder`."""
        memory = self.encode(source, mask=source_mask)
        return self.decode(target, memory, mask=mask, memory_mask=source_mask)


def _initialize(model: T5) -> None:
    """Draw every parameter anew, as in the released code (Mesh TensorFlow).

    Linear layers preserve variance, but queries are smaller by sqrt(D), which scores are not divided by. The token
    table has unit variance. Gains are one.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if name.endswith("q_proj"):
                module.weight.data *= model.config.head_width**-0.5
        elif isinstance(module, RelativePositionBias):
            nn.init.normal_(module.table.weight, std=model.config.width**-0.5)
    nn.init.normal_(model.token_embedding.weight)
