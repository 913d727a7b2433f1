"""Mixtral (arXiv 2401.04088): a LLaMA whose feed-forward layers are mixtures of experts.

Shape legend: B samples, T new tokens, W width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat

from torch import Tensor, nn

from archlab.config import Section
from archlab.layers.attention import Attention
from archlab.layers.block import Block
from archlab.layers.cache import KVCache
from archlab.layers.causal import causal_context
from archlab.layers.initialization import initialize
from archlab.layers.moe import MixtureOfExperts, Router
from archlab.layers.norms import RMSNorm
from archlab.layers.positions import RotaryEmbedding
from archlab.rules import Count, Positive


@dataclass(frozen=True, kw_only=True)
class MixtralConfig(Section):
    """Shape of a Mixtral (table 1); the defaults are Mixtral 8x7B."""

    vocab_size: Count = 32000
    context: Count = 32768
    """Most tokens of a sequence."""
    width: Count = 4096
    depth: Count = 32
    heads: Count = 32
    key_value_heads: Count = 8
    """Each serves heads / key_value_heads neighbouring heads."""
    feed_forward: Count = 14336
    """Hidden width of one expert."""
    experts: Count = 8
    chosen_experts: Count = 2
    """Experts per token."""
    norm_eps: Positive = 1e-5
    rotary_base: Positive = 1000000.0


class Mixtral(nn.Module):
    """Token ids to next-token logits; see `models.protocols.Decoder`.

    Args:
        config: shape of the model.

    Raises:
        UserError: the heads do not divide the width, the key-value heads do not divide the heads, the width of a head
            is odd, or more experts are chosen than there are.
    """

    def __init__(self, config: MixtralConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(_block(config) for _ in range(config.depth))
        self.rotary = RotaryEmbedding(config.width // config.heads, base=config.rotary_base)
        self.norm = RMSNorm(config.width, eps=config.norm_eps)
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        initialize(self, config.depth)

    def new_cache(self) -> list[KVCache]:
        """Empty caches, one per block."""
        return [KVCache() for _ in self.blocks]

    def forward(
        self, tokens: Tensor, *, mask: Tensor | None = None, cache: Sequence[KVCache] | None = None, keep: int = 0
    ) -> Tensor:
        """(B, T) -> (B, T, V); see `models.protocols.Decoder`. Padding is routed too, and changes no other token."""
        at = causal_context(tokens, mask=mask, cache=cache, limit=self.config.context)
        rotation = self.rotary(at.positions)
        x = self.token_embedding(tokens)  # (B, T, W)
        for block, kept in zip(self.blocks, cache or repeat(None, self.config.depth), strict=True):
            x = block(x, mask=at.mask, rotation=rotation, cache=kept)
        return self.head(self.norm(x[:, -keep:]))


def _block(config: MixtralConfig) -> Block:
    """Block of Mixtral (section 2.1): softmax over all experts, the weights of the chosen ones renormalised.

    The paper takes the softmax over the logits of the chosen experts, which is the same.
    """
    return Block(
        RMSNorm(config.width, eps=config.norm_eps),
        Attention(config.width, config.heads, key_value_heads=config.key_value_heads),
        RMSNorm(config.width, eps=config.norm_eps),
        MixtureOfExperts(
            config.width, config.feed_forward, Router(config.width, config.experts, config.chosen_experts)
        ),
    )
