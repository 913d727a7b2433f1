"""Gemma 3 (arXiv 2503.19786), its text model: local and global layers in turn, norms around every part and on queries
and keys; bidirectional, EmbeddingGemma (arXiv 2509.20354).

Shape legend: B samples, T new tokens, W width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor, nn

from archlab.config import Section
from archlab.errors import UserError
from archlab.layers import masks
from archlab.layers.attention import Attention
from archlab.layers.block import SandwichBlock
from archlab.layers.cache import KVCache, SlidingCache
from archlab.layers.causal import CausalContext, causal_context
from archlab.layers.embeddings import output_logits
from archlab.layers.feedforward import GatedMLP
from archlab.layers.initialization import initialize
from archlab.layers.norms import RMSNorm
from archlab.layers.positions import RotaryEmbedding
from archlab.layers.rotary_scaling import LinearScaling
from archlab.rules import Count, Positive


@dataclass(frozen=True, kw_only=True)
class GemmaConfig(Section):
    """Shape of a Gemma 3 (section 2); the defaults are Gemma 3 1B."""

    vocab_size: Count = 262144
    context: Count = 32768
    """Most tokens of a sequence."""
    width: Count = 1152
    depth: Count = 26
    heads: Count = 4
    key_value_heads: Count = 1
    """Each serves heads / key_value_heads neighbouring heads."""
    head_width: Count = 256
    score_width: Count = 256
    """Scores are divided by its root; the width of a head in all published models but the largest."""
    feed_forward: Count = 6912
    norm_eps: Positive = 1e-6
    window: Count = 512
    """Tokens that a local layer sees: the last ones, its own included. Bidirectional: half of it on either side."""
    global_every: Count = 6
    """Every so many layers, the last of them sees all tokens."""
    rotary_base: Positive = 1_000_000.0
    """Of global layers."""
    local_rotary_base: Positive = 10_000.0
    rotary_scaling: LinearScaling | None = None
    """Of global layers, in the models for images and text."""
    bidirectional: bool = False
    """Every token sees those after it too: an encoder, which has no cache."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bidirectional and self.window % 2:
            raise UserError(f"window={self.window}: must be even in a bidirectional model, half lies on either side")


class GemmaBlock(SandwichBlock):
    """Norms before and after both parts, normalised queries and keys, GeGLU (section 2 and Gemma 2, section 2).

    Args:
        config: of the model.
        window: how many tokens the layer sees; None: all.
    """

    def __init__(self, config: GemmaConfig, window: int | None) -> None:
        super().__init__(
            _norm(config, config.width),
            Attention(
                config.width,
                config.heads,
                key_value_heads=config.key_value_heads,
                head_width=config.head_width,
                query_norm=_norm(config, config.head_width),
                key_norm=_norm(config, config.head_width),
                scale=config.score_width**-0.5,
            ),
            _norm(config, config.width),
            _norm(config, config.width),
            GatedMLP(config.width, config.feed_forward, activation="gelu-tanh"),
            _norm(config, config.width),
        )
        self.window = window


class Gemma(nn.Module):
    """Token ids to next-token logits; see `models.protocols.Decoder`. `states` gives what an encoder is asked for.

    The output layer is the token table.

    Args:
        config: shape of the model.

    Raises:
        UserError: the key-value heads do not divide the heads, or the width of a head is odd.
    """

    def __init__(self, config: GemmaConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(
            GemmaBlock(config, None if (layer + 1) % config.global_every == 0 else config.window)
            for layer in range(config.depth)
        )
        self.rotary = RotaryEmbedding(config.head_width, base=config.rotary_base, scaling=config.rotary_scaling)
        self.local_rotary = RotaryEmbedding(config.head_width, base=config.local_rotary_base)
        self.norm = _norm(config, config.width)
        self.head: nn.Module | None = None  # the output layer is the token table
        initialize(self, config.depth)

    def new_cache(self) -> list[KVCache]:
        """Empty caches, one per block; those of local layers keep the window only.

        Raises:
            UserError: the model is bidirectional.
        """
        self._refuse_cache()
        return [KVCache() if block.window is None else SlidingCache(block.window) for block in self._blocks()]

    def forward(
        self, tokens: Tensor, *, mask: Tensor | None = None, cache: Sequence[KVCache] | None = None, keep: int = 0
    ) -> Tensor:
        """(B, T) -> (B, T, V); see `models.protocols.Decoder`."""
        states = self.states(tokens, mask=mask, cache=cache)[:, -keep:]
        return output_logits(states, self.head, self.token_embedding.weight)

    def states(self, tokens: Tensor, *, mask: Tensor | None = None, cache: Sequence[KVCache] | None = None) -> Tensor:
        """(B, T) -> normalised states (B, T, W), undefined at padding; the arguments are those of `forward`."""
        if cache is not None:
            self._refuse_cache()
        at = causal_context(tokens, mask=mask, cache=cache, limit=self.config.context)
        rotations = {True: self.local_rotary(at.positions), False: self.rotary(at.positions)}
        # Shared by the layers of a window, whose caches hold as much as each other; how much must be no key: compiled,
        # every length would be another program.
        seen: dict[int | None, Tensor | None] = {}
        x = self.token_embedding(tokens)  # (B, T, W)
        # The factor is rounded to the type of the weights, as it was in training: in bfloat16, 33.94 becomes 34.
        x = x * torch.tensor(self.config.width**0.5, dtype=x.dtype)
        for block, kept in zip(self._blocks(), cache or repeat(None, self.config.depth), strict=True):
            if block.window not in seen:
                held = 0 if kept is None else kept.held
                seen[block.window] = self._may_attend(at, mask, block.window, held)
            x = block(x, mask=seen[block.window], rotation=rotations[block.window is not None], cache=kept)
        return self.norm(x)

    def _may_attend(self, at: CausalContext, mask: Tensor | None, window: int | None, held: int) -> Tensor | None:
        """Mask of a layer with this window and as many cached tokens, (B or 1, 1, T, held + T); None: all see all."""
        if not self.config.bidirectional:
            return at.mask if window is None else at.within(window, held)
        places = torch.arange(at.key_positions.shape[1], device=at.positions.device)[None]
        conditions = [] if mask is None else [masks.padding(mask)]
        conditions += [] if window is None else [masks.neighbourhood(places, places, window // 2)]
        return masks.combine(*conditions) if conditions else None

    def _refuse_cache(self) -> None:
        if self.config.bidirectional:
            raise UserError("cache: a bidirectional model has none, every token sees the later ones; leave it out")

    def _blocks(self) -> list[GemmaBlock]:
        return [block for block in self.blocks if isinstance(block, GemmaBlock)]


def _norm(config: GemmaConfig, width: int) -> RMSNorm:
    return RMSNorm(width, eps=config.norm_eps, unit_offset=True)
