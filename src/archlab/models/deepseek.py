"""DeepSeek-V3 (arXiv 2412.19437): latent attention, and mixtures of many small experts after a few dense layers.

Shape legend: B samples, T new tokens, W width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat

from torch import Tensor, nn

from archlab.config import Section
from archlab.layers.block import Block
from archlab.layers.cache import Cache, KVCache
from archlab.layers.causal import causal_context
from archlab.layers.feedforward import GatedMLP
from archlab.layers.initialization import initialize
from archlab.layers.mla import LatentAttention
from archlab.layers.moe import MixtureOfExperts, Router
from archlab.layers.norms import RMSNorm
from archlab.layers.positions import RotaryEmbedding, RotaryLayout
from archlab.layers.rotary_scaling import YarnScaling
from archlab.rules import Count, Natural, Positive


@dataclass(frozen=True, kw_only=True)
class DeepseekConfig(Section):
    """Shape of a DeepSeek-V3 (section 4.2); the defaults are the model of 671B before its context was extended."""

    vocab_size: Count = 129280
    context: Count = 4096
    """Most tokens of a sequence."""
    width: Count = 7168
    depth: Count = 61
    heads: Count = 128
    query_latent: Natural = 1536
    """Width of the vector that queries are made from; 0 makes them directly."""
    key_value_latent: Count = 512
    """Width of the vector that keys and values are made from, which the cache holds."""
    head_width: Count = 128
    """Features of queries and keys without position."""
    rotary_width: Count = 64
    """Further features that are turned; the key's are shared by all heads."""
    value_width: Count = 128
    feed_forward: Count = 18432
    """Hidden width of the dense layers."""
    dense_layers: Natural = 3
    """The first so many layers have no experts."""
    expert_feed_forward: Count = 2048
    """Hidden width of one expert."""
    experts: Count = 256
    chosen_experts: Count = 8
    """Experts per token."""
    shared_experts: Count = 1
    """Experts that read every token."""
    groups: Count = 8
    """The experts are divided into so many groups."""
    chosen_groups: Count = 4
    """A token reaches experts of its best so many groups."""
    renormalise: bool = True
    """Whether the weights of a token's experts add up to `routed_scale`."""
    routed_scale: Positive = 2.5
    norm_eps: Positive = 1e-6
    rotary_base: Positive = 10000.0
    rotary_scaling: YarnScaling | None = None
    """Since the context was extended (section 4.3)."""
    interleaved: bool = True
    """Whether rotary positions turn neighbouring features instead of the two halves."""


class Deepseek(nn.Module):
    """Token ids to next-token logits; see `models.protocols.Decoder`.

    Differs from the paper: the loss of section 2.1.2 that balances the experts of single sequences is left to training
    (`layers.moe.load_balancing_loss` balances batches), and the extra prediction of section 2.2 is a module of its own,
    `models.multi_token`, which is not needed to generate.

    Args:
        config: shape of the model.

    Raises:
        UserError: the rotary width is odd, or the numbers of experts and groups do not fit together.
    """

    def __init__(self, config: DeepseekConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(make_block(config, layer) for layer in range(config.depth))
        self.rotary = RotaryEmbedding(
            config.rotary_width,
            base=config.rotary_base,
            layout=RotaryLayout.INTERLEAVED if config.interleaved else RotaryLayout.HALF_SPLIT,
            scaling=config.rotary_scaling,
        )
        self.norm = RMSNorm(config.width, eps=config.norm_eps)
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        initialize(self, config.depth)

    def new_cache(self) -> list[KVCache]:
        """Empty caches, one per block; they hold latents and shared rotary keys."""
        return [KVCache() for _ in self.blocks]

    def forward(
        self, tokens: Tensor, *, mask: Tensor | None = None, cache: Sequence[Cache] | None = None, keep: int = 0
    ) -> Tensor:
        """(B, T) -> (B, T, V); see `models.protocols.Decoder`. Padding is routed too, and changes no other token."""
        return self.head(self.states(tokens, mask=mask, cache=cache)[:, -keep:])

    def states(self, tokens: Tensor, *, mask: Tensor | None = None, cache: Sequence[Cache] | None = None) -> Tensor:
        """What `head` reads, (B, T, W); arguments as in `forward`."""
        at = causal_context(tokens, mask=mask, cache=cache, limit=self.config.context)
        rotation = self.rotary(at.positions)
        x = self.token_embedding(tokens)  # (B, T, W)
        for block, kept in zip(self.blocks, cache or repeat(None, self.config.depth), strict=True):
            x = block(x, mask=at.mask, rotation=rotation, cache=kept)
        return self.norm(x)


def make_block(config: DeepseekConfig, layer: int) -> Block:
    """Block of DeepSeek-V3 (section 2.1), dense or a mixture of experts by its number."""
    return Block(
        RMSNorm(config.width, eps=config.norm_eps),
        LatentAttention(
            config.width,
            config.heads,
            query_latent=config.query_latent,
            key_value_latent=config.key_value_latent,
            head_width=config.head_width,
            rotary_width=config.rotary_width,
            value_width=config.value_width,
            scale=_score_scale(config),
        ),
        RMSNorm(config.width, eps=config.norm_eps),
        GatedMLP(config.width, config.feed_forward) if layer < config.dense_layers else _experts(config),
    )


def _score_scale(config: DeepseekConfig) -> float:
    """What attention scores are multiplied by: with YaRN its magnitude counts for the features without position too."""
    scale = (config.head_width + config.rotary_width) ** -0.5
    return scale if config.rotary_scaling is None else scale * config.rotary_scaling.score_scale


def _experts(config: DeepseekConfig) -> MixtureOfExperts:
    router = Router(
        config.width,
        config.experts,
        config.chosen_experts,
        scores="sigmoid",
        renormalise=config.renormalise,
        scale=config.routed_scale,
        groups=config.groups,
        chosen_groups=config.chosen_groups,
        corrected=True,
    )
    shared = config.shared_experts * config.expert_feed_forward
    return MixtureOfExperts(config.width, config.expert_feed_forward, router, shared_hidden=shared)
