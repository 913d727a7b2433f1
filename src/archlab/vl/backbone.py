"""The backbone that both arms share: frozen visual features and a query through one Transformer trunk.

Shape legend: B samples, N visual tokens, D features per visual token, Q query tokens, A answer tokens, W trunk width,
T = N + Q (+ A) sequence length.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from archlab.config import TransformerConfig
from archlab.layers import masks
from archlab.layers.block import TransformerStack
from archlab.layers.embeddings import TokenEmbedding
from archlab.layers.pooling import masked_mean


class Backbone(nn.Module):
    """Visual projection, token embedding and trunk (VL-JEPA's predictor without its head, section 3.1).

    Args:
        config: size of the trunk.
        feature_width: D, features per visual token.
        vocab_size: entries of the token embedding.
    """

    def __init__(self, config: TransformerConfig, feature_width: int, vocab_size: int) -> None:
        super().__init__()
        self.width, self.feature_width = config.width, feature_width
        self.visual_projection = nn.Linear(feature_width, config.width)
        self.token_embedding = TokenEmbedding(vocab_size, config.width)
        self.trunk = TransformerStack(config)
        # The encoder's features have unit variance: so have the visual tokens, like the embedded query tokens.
        nn.init.normal_(self.visual_projection.weight, std=feature_width**-0.5)
        nn.init.zeros_(self.visual_projection.bias)

    def see(self, features: Tensor) -> Tensor:
        """Visual tokens (B, N, W) of features (B, N, D), in the type of the weights."""
        return self.visual_projection(features.to(self.visual_projection.weight.dtype))

    def embed(self, features: Tensor, query: Tensor, query_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Visual tokens, then query tokens.

        Args:
            features: (B, N, D); N may be 0 (text alone).
            query: ids (B, Q); query_mask: True at real tokens.

        Returns:
            embeddings (B, N + Q, W) and mask (B, N + Q), True at real tokens.
        """
        visual = self.see(features)
        present = query_mask.new_ones(features.shape[:2])  # (B, N)
        return torch.cat([visual, self.token_embedding(query)], 1), torch.cat([present, query_mask], 1)

    def forward(self, features: Tensor, query: Tensor, query_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Trunk states of image and query, every token attending to every real token.

        Returns:
            states (B, N + Q, W) and mask (B, N + Q).
        """
        embeddings, mask = self.embed(features, query, query_mask)
        states = self.trunk(embeddings, mask=masks.padding(mask), positions=positions_of(mask))
        return states, mask

    def pooled(self, features: Tensor, query: Tensor, query_mask: Tensor) -> Tensor:
        """Mean of the trunk states over real tokens, (B, W): what the embedding head reads and probes look at."""
        return masked_mean(*self(features, query, query_mask))


def positions_of(mask: Tensor) -> Tensor:
    """Position of each real token among the real ones, (B, T): padding in the middle shifts nothing."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)
