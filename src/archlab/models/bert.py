"""BERT (arXiv 1810.04805): a bidirectional post-norm encoder with learned positions and token types.

Shape legend: B samples, T tokens, W width, V vocabulary, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab.config import Section
from archlab.layers import masks
from archlab.layers.attention import Attention
from archlab.layers.block import Block
from archlab.layers.causal import real_positions
from archlab.layers.feedforward import MLP
from archlab.layers.initialization import initialize
from archlab.rules import Count, Positive


@dataclass(frozen=True, kw_only=True)
class BertConfig(Section):
    """Shape of a BERT (section 3); the defaults are BERT base, uncased."""

    vocab_size: Count = 30522
    context: Count = 512
    """Most tokens of a sequence: the positions that have a vector."""
    token_types: Count = 2
    """Kinds of tokens that are told apart, such as first and second sentence."""
    width: Count = 768
    depth: Count = 12
    heads: Count = 12
    feed_forward: Count = 3072
    norm_eps: Positive = 1e-12


def _block(config: BertConfig) -> Block:
    """Block of the original Transformer's encoder, with the exact GELU."""
    return Block(
        nn.LayerNorm(config.width, eps=config.norm_eps),
        Attention(config.width, config.heads, bias=True),
        nn.LayerNorm(config.width, eps=config.norm_eps),
        MLP(config.width, config.feed_forward),
        post_norm=True,
    )


class BertTrunk(nn.Module):
    """Token ids to a state per token: what `Bert` and the models with a head share, which initialise it.

    Differs from the paper: no dropout, and positions count real tokens only, so that padding may be on either side.

    Args:
        config: shape of the model.

    Raises:
        UserError: the heads do not divide the width.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Parameter(torch.empty(config.context, config.width))
        self.type_embedding = nn.Embedding(config.token_types, config.width)
        self.embedding_norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.blocks = nn.ModuleList(_block(config) for _ in range(config.depth))

    def encode(self, tokens: Tensor, mask: Tensor | None, token_types: Tensor | None) -> Tensor:
        """(B, T) -> (B, T, W); see `models.protocols.Encoder`."""
        positions = real_positions(tokens, mask, tokens.shape[1], self.config.context)  # (B or 1, T)
        types = torch.zeros_like(tokens) if token_types is None else token_types
        x = self.token_embedding(tokens) + self.type_embedding(types) + self.positions[positions]  # (B, T, W)
        x = self.embedding_norm(x)
        attend = None if mask is None else masks.padding(mask)
        for block in self.blocks:
            x = block(x, mask=attend)
        return x


class Bert(BertTrunk):
    """States of every token, and one of the sequence; see `models.protocols.Encoder`."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.pooler = nn.Linear(config.width, config.width)
        initialize(self, config.depth)

    def forward(self, tokens: Tensor, *, mask: Tensor | None = None, token_types: Tensor | None = None) -> Tensor:
        """(B, T) -> (B, T, W), the states after the last block; see `models.protocols.Encoder`."""
        return self.encode(tokens, mask, token_types)

    def pool(self, states: Tensor, mask: Tensor | None = None) -> Tensor:
        """The state of the first real token through a layer that pretraining has taught next-sentence prediction.

        Args:
            states: from `forward`, (B, T, W).
            mask: the one that `forward` had.

        Returns:
            (B, W), between -1 and 1.
        """
        first = states[:, 0] if mask is None else states[torch.arange(len(states)), mask.long().argmax(1)]
        return self.pooler(first).tanh()


class BertMaskedLM(BertTrunk):
    """Token ids to logits of the token at each place (section 3.1, task 1); the output layer is the token table."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.transform = nn.Linear(config.width, config.width)
        self.transform_norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.output_bias = nn.Parameter(torch.empty(config.vocab_size))
        initialize(self, config.depth)

    def forward(self, tokens: Tensor, *, mask: Tensor | None = None, token_types: Tensor | None = None) -> Tensor:
        """(B, T) -> (B, T, V); see `models.protocols.Encoder`."""
        x = self.transform_norm(F.gelu(self.transform(self.encode(tokens, mask, token_types))))
        return F.linear(x, self.token_embedding.weight, self.output_bias)


class BertClassifier(Bert):
    """Token ids to logits of classes of whole sequences (section 4.1)."""

    def __init__(self, config: BertConfig, classes: int) -> None:
        super().__init__(config)
        self.classifier = nn.Linear(config.width, classes)
        initialize(self, config.depth)

    def forward(self, tokens: Tensor, *, mask: Tensor | None = None, token_types: Tensor | None = None) -> Tensor:
        """(B, T) -> (B, C); see `models.protocols.Encoder`."""
        return self.classifier(self.pool(self.encode(tokens, mask, token_types), mask))
