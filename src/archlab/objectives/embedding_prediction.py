"""The objective of VL-JEPA: predict the answer's embedding, and teach the text decoder to speak embeddings.

Two losses whose gradients never meet. InfoNCE trains predictor and target encoder (section 3.1). The decoder learns to
turn target embeddings, detached, back into their texts: it sees no image, and nothing it learns reaches the rest.

Differs from the paper: it does not say how its decoder is trained. Training it alongside, rather than afterwards, lets
every checkpoint of the learning curve speak.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from torch import Tensor, nn

from archlab.config import ContrastiveConfig
from archlab.objectives.contrastive import GivesEmbeddings, InfoNCE
from archlab.objectives.next_token import next_token_loss
from archlab.objectives.output import Output

if TYPE_CHECKING:
    from archlab.data.batch import Batch


class SpeaksEmbeddings(GivesEmbeddings, Protocol):
    """A model that predicts embeddings and can speak them."""

    def decoder(self, embedding: Tensor, target: Tensor, target_mask: Tensor, /) -> Tensor:
        """Logits (B, L, V) of the token after each of `target` (B, L), given embeddings (B, E)."""
        ...


class EmbeddingPrediction(nn.Module):
    """InfoNCE for predictor and target encoder, next-token cross-entropy for the decoder.

    Args:
        config: of InfoNCE, which owns the only parameter.
    """

    def __init__(self, config: ContrastiveConfig) -> None:
        super().__init__()
        self.contrastive = InfoNCE(config)

    def forward(self, model: SpeaksEmbeddings, batch: Batch) -> Output:
        """`loss` is the sum; `parts` keeps the two apart."""
        contrast = self.contrastive(model, batch)
        target = contrast.embeddings["target"]  # detached
        spoken = next_token_loss(model.decoder(target, batch.target[:, :-1], batch.target_mask[:, :-1]), batch)
        parts = contrast.parts | {"info_nce": contrast.loss.detach(), "decoder": spoken.detach()}
        return Output(contrast.loss + spoken, parts, contrast.embeddings)
