"""Classification of texts: an encoder, the mean of its states, one linear layer.

Shape legend: B samples, T tokens, W width, C classes, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor, nn

from archlab.config import TransformerConfig
from archlab.data.text.batch import Classified
from archlab.layers import masks
from archlab.layers.block import TransformerStack
from archlab.layers.embeddings import TokenEmbedding
from archlab.layers.pooling import masked_mean


class TextEncoder(nn.Module):
    """Bidirectional Transformer over token ids, to be trained from scratch.

    Args:
        config: size of the Transformer.
        vocab_size: V.
    """

    def __init__(self, config: TransformerConfig, vocab_size: int) -> None:
        super().__init__()
        self.token_embedding = TokenEmbedding(vocab_size, config.width)
        self.trunk = TransformerStack(config)

    def forward(self, tokens: Tensor, *, mask: Tensor) -> Tensor:
        """Ids (B, T) with mask (B, T), True at real tokens, padding at the end -> states (B, T, W)."""
        return self.trunk(self.token_embedding(tokens), mask=masks.padding(mask))


class TextClassifier(nn.Module):
    """Logits of classes from the mean of an encoder's states over real tokens.

    Args:
        encoder: called with ids (B, T) and `mask` (B, T), gives states (B, T, W).
        width: W.
        classes: C.
    """

    def __init__(self, encoder: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(0.0)  # set by `layers.dropout.set_dropout`
        self.head = nn.Linear(width, classes)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def class_logits(self, batch: Classified) -> Tensor:
        """(B, C)."""
        states = self.encoder(batch.tokens, mask=batch.mask)  # (B, T, W)
        return self.head(self.dropout(masked_mean(states, batch.mask)))
