"""Y-encoder: target text to its embedding (VL-JEPA, section 3.1).

Differs from the paper: small and trained from scratch, like every other part, instead of EmbeddingGemma-300M.
"""

from __future__ import annotations

from torch import Tensor, nn

from archlab.config import TransformerConfig
from archlab.layers import masks
from archlab.layers.block import TransformerStack
from archlab.layers.embeddings import TokenEmbedding
from archlab.layers.pooling import masked_mean
from archlab.vl.backbone import positions_of


class TargetEncoder(nn.Module):
    """Bidirectional Transformer over the target's tokens, mean over real tokens, linear head.

    Args:
        config: size of the Transformer.
        vocab_size: entries of the token embedding.
        embedding: E, dimensions of the shared space.
    """

    def __init__(self, config: TransformerConfig, vocab_size: int, embedding: int) -> None:
        super().__init__()
        self.token_embedding = TokenEmbedding(vocab_size, config.width)
        self.trunk = TransformerStack(config)
        self.head = nn.Linear(config.width, embedding)

    def forward(self, target: Tensor, target_mask: Tensor) -> Tensor:
        """Embeddings (B, E), not normalised, of token ids (B, L) with mask (B, L), True at real tokens."""
        states = self.trunk(
            self.token_embedding(target), mask=masks.padding(target_mask), positions=positions_of(target_mask)
        )
        return self.head(masked_mean(states, target_mask))
