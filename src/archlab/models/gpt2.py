"""GPT-2 ("Language models are unsupervised multitask learners", 2019): a pre-norm decoder with learned positions.

Shape legend: B samples, T new tokens, W width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor, nn

from archlab.config import Section
from archlab.layers.attention import Attention
from archlab.layers.block import Block
from archlab.layers.cache import KVCache
from archlab.layers.causal import causal_context
from archlab.layers.embeddings import output_logits
from archlab.layers.feedforward import MLP
from archlab.layers.initialization import initialize
from archlab.rules import Count, Positive


@dataclass(frozen=True, kw_only=True)
class GPT2Config(Section):
    """Shape of a GPT-2; the defaults are the smallest published one."""

    vocab_size: Count = 50257
    context: Count = 1024
    """Most tokens of a sequence: the positions that have a vector."""
    width: Count = 768
    depth: Count = 12
    heads: Count = 12
    feed_forward: Count = 3072
    norm_eps: Positive = 1e-5


class GPT2(nn.Module):
    """Token ids to next-token logits; see `models.protocols.Decoder`.

    The output layer is the token table (section 2.3 inherits it from GPT). Differs from the paper: no dropout.

    Args:
        config: shape of the model.

    Raises:
        UserError: the heads do not divide the width.
    """

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Parameter(torch.empty(config.context, config.width))
        self.blocks = nn.ModuleList(_block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.head: nn.Module | None = None  # the output layer is the token table
        initialize(self, config.depth)

    def new_cache(self) -> list[KVCache]:
        """Empty caches, one per block."""
        return [KVCache() for _ in self.blocks]

    def forward(
        self, tokens: Tensor, *, mask: Tensor | None = None, cache: Sequence[KVCache] | None = None, keep: int = 0
    ) -> Tensor:
        """(B, T) -> (B, T, V); see `models.protocols.Decoder`."""
        at = causal_context(tokens, mask=mask, cache=cache, limit=self.config.context)
        x = self.token_embedding(tokens) + self.positions[at.positions]  # (B, T, W)
        for block, kept in zip(self.blocks, cache or repeat(None, self.config.depth), strict=True):
            x = block(x, mask=at.mask, cache=kept)
        return output_logits(self.norm(x[:, -keep:]), self.head, self.token_embedding.weight)


def _block(config: GPT2Config) -> Block:
    """Block of GPT-2 (section 2.3): LayerNorm before each part, biases everywhere, GELU in its tanh form."""
    return Block(
        nn.LayerNorm(config.width, eps=config.norm_eps),
        Attention(config.width, config.heads, bias=True),
        nn.LayerNorm(config.width, eps=config.norm_eps),
        MLP(config.width, config.feed_forward, activation="gelu-tanh"),
    )
