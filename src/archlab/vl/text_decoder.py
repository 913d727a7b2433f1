"""Y-decoder: an embedding back to text, trained on text alone and used only at inference (VL-JEPA, section 3.1).

The paper does not describe its decoder. Ours unfolds the normalised embedding into a few prefix tokens that a causal
Transformer continues.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab.config import TransformerConfig
from archlab.layers import masks
from archlab.layers.block import TransformerStack
from archlab.layers.embeddings import TokenEmbedding
from archlab.vl.backbone import positions_of
from archlab.vl.decoding import Prefix, Step, collect, greedy_steps


class TextDecoder(nn.Module):
    """Language model conditioned on an embedding.

    Args:
        config: size of the Transformer.
        vocab_size: entries of the token embedding, which is also the output projection.
        embedding: E, dimensions of the embedding.
        prefix: P, tokens that the embedding is unfolded into.
    """

    def __init__(self, config: TransformerConfig, vocab_size: int, embedding: int, prefix: int) -> None:
        super().__init__()
        self.prefix, self.width = prefix, config.width
        self.unfold = nn.Linear(embedding, prefix * config.width)
        self.token_embedding = TokenEmbedding(vocab_size, config.width)
        self.trunk = TransformerStack(config)
        nn.init.normal_(self.unfold.weight)  # of a vector of length 1: the prefix tokens have unit variance

    def forward(self, embedding: Tensor, target: Tensor, target_mask: Tensor) -> Tensor:
        """Logits (B, L, vocabulary) of the token after each token of `target` (B, L), given embeddings (B, E)."""
        prefix = self.unfold_prefix(embedding)  # (B, P, W)
        sequence = torch.cat([prefix, self.token_embedding(target)], 1)  # (B, P + L, W)
        mask = torch.cat([target_mask.new_ones(prefix.shape[:2]), target_mask], 1)
        positions = positions_of(mask)
        attend = masks.combine(masks.padding(mask), masks.causal(positions, positions))
        states = self.trunk(sequence, mask=attend, positions=positions)
        return self.token_embedding.logits(states[:, self.prefix :])

    def unfold_prefix(self, embedding: Tensor) -> Tensor:
        """Prefix tokens (B, P, W) of embeddings (B, E), which are normalised first: only directions carry meaning."""
        direction = F.normalize(embedding, dim=-1).to(self.unfold.weight.dtype)
        return self.unfold(direction).unflatten(-1, (self.prefix, self.width))

    def generate(self, embedding: Tensor, max_tokens: int, bos: int, eos: int) -> Tensor:
        """Greedy ids (B, at most `max_tokens`) that speak the embeddings (B, E)."""
        return collect(self.steps(embedding, max_tokens, bos, eos))

    def steps(self, embedding: Tensor, max_tokens: int, bos: int, eos: int) -> Iterator[Step]:
        """`generate` step by step."""
        return greedy_steps(self.trunk, self.token_embedding, self.read(embedding), max_tokens, bos, eos)

    @torch.no_grad()
    def read(self, embedding: Tensor) -> Prefix:
        """Run the prefix tokens of embeddings (B, E); the result can be continued."""
        tokens = self.unfold_prefix(embedding)
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        positions = positions_of(mask)
        return Prefix.run(self.trunk, tokens, mask, masks.causal(positions, positions))
