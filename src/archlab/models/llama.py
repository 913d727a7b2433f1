"""LLaMA 3 (arXiv 2407.21783): RMSNorm, rotary positions, grouped keys and values, SwiGLU, no biases.

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
from archlab.layers.embeddings import output_logits
from archlab.layers.feedforward import GatedMLP
from archlab.layers.initialization import initialize
from archlab.layers.norms import RMSNorm
from archlab.layers.positions import RotaryEmbedding
from archlab.layers.rotary_scaling import AnyRotaryScaling
from archlab.rules import Count, Positive


@dataclass(frozen=True, kw_only=True)
class LlamaConfig(Section):
    """Shape of a LLaMA (section 3.2); the defaults are LLaMA 3 8B."""

    vocab_size: Count = 128256
    context: Count = 8192
    """Most tokens of a sequence."""
    width: Count = 4096
    depth: Count = 32
    heads: Count = 32
    key_value_heads: Count = 8
    """Each serves heads / key_value_heads neighbouring heads."""
    feed_forward: Count = 14336
    norm_eps: Positive = 1e-5
    rotary_base: Positive = 500000.0
    rotary_scaling: AnyRotaryScaling | None = None
    """Llama3Scaling since 3.1; None leaves the frequencies as they are."""
    tied: bool = False
    """Whether the output layer is the token table (the small models of 3.2)."""


class Llama(nn.Module):
    """Token ids to next-token logits; see `models.protocols.Decoder`.

    Differs from Meta's code: rotary positions turn the two halves of a head instead of neighbouring features, as in
    `transformers`, whose checkpoints have the rows of queries and keys permuted accordingly.

    Args:
        config: shape of the model.

    Raises:
        UserError: the heads do not divide the width, the key-value heads do not divide the heads, or the width of a
            head is odd.
    """

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(llama_block(config) for _ in range(config.depth))
        self.rotary = RotaryEmbedding(
            config.width // config.heads, base=config.rotary_base, scaling=config.rotary_scaling
        )
        self.norm = RMSNorm(config.width, eps=config.norm_eps)
        self.head: nn.Module | None = None if config.tied else nn.Linear(config.width, config.vocab_size, bias=False)
        initialize(self, config.depth)

    def new_cache(self) -> list[KVCache]:
        """Empty caches, one per block."""
        return [KVCache() for _ in self.blocks]

    def forward(
        self, tokens: Tensor, *, mask: Tensor | None = None, cache: Sequence[KVCache] | None = None, keep: int = 0
    ) -> Tensor:
        """(B, T) -> (B, T, V); see `models.protocols.Decoder`."""
        at = causal_context(tokens, mask=mask, cache=cache, limit=self.config.context)
        rotation = self.rotary(at.positions)
        x = self.token_embedding(tokens)  # (B, T, W)
        for block, kept in zip(self.blocks, cache or repeat(None, self.config.depth), strict=True):
            x = block(x, mask=at.mask, rotation=rotation, cache=kept)
        x = self.norm(x[:, -keep:])  # (B, keep or T, W)
        return output_logits(x, self.head, self.token_embedding.weight)


def llama_block(config: LlamaConfig) -> Block:
    """Block of LLaMA (arXiv 2302.13971, section 2.2)."""
    return Block(
        RMSNorm(config.width, eps=config.norm_eps),
        Attention(config.width, config.heads, key_value_heads=config.key_value_heads),
        RMSNorm(config.width, eps=config.norm_eps),
        GatedMLP(config.width, config.feed_forward),
    )
