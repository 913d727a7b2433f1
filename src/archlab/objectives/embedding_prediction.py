"""The objective of VL-JEPA: predict the answer's embedding, and teach the text decoder to speak embeddings.

Two losses whose gradients never meet. One, InfoNCE in the paper, trains predictor and target encoder (section 3.1). The
decoder learns to turn target embeddings, detached, back into their texts: it sees no image, and nothing it learns
reaches the rest.

Differs from the paper: it does not say how its decoder is trained. Training it alongside, rather than afterwards, lets
every checkpoint of the learning curve speak.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from archlab.config import EmbeddingArmConfig
from archlab.objectives.contrastive import GivesEmbeddings
from archlab.objectives.hidden_vision import HiddenVision
from archlab.objectives.next_token import next_token_loss
from archlab.objectives.output import Output
from archlab.objectives.regression import build_prediction

if TYPE_CHECKING:
    from archlab.data.batch import Batch


class SpeaksEmbeddings(GivesEmbeddings, Protocol):
    """A model that predicts embeddings and can speak them."""

    def decoder(self, embedding: Tensor, target: Tensor, target_mask: Tensor, /) -> Tensor:
        """Logits (B, L, V) of the token after each of `target` (B, L), given embeddings (B, E)."""
        ...

    def predict(self, features: Tensor, query: Tensor, query_mask: Tensor) -> Tensor:
        """Embedding (B, E) of the answer to the query about the image."""
        ...


class EmbeddingPrediction(nn.Module):
    """What predictor and target encoder are trained by, and next-token cross-entropy for the decoder.

    Args:
        prediction: model and batch -> `Output` with the embeddings "predicted" and "target".
        vision: a further objective of the predictor, and its weight.
    """

    def __init__(self, prediction: nn.Module, vision: nn.Module | None = None, weight: float = 0.0) -> None:
        super().__init__()
        self.prediction, self.vision, self.weight = prediction, vision, weight

    def forward(self, model: Any, batch: Batch) -> Output:
        """`loss` is the sum; `parts` keeps the terms apart."""
        output = self.prediction(model, batch)
        target = output.embeddings["target"]  # detached
        spoken = spoken_loss(model, target, batch)
        parts = output.parts | {"prediction": output.loss.detach(), "decoder": spoken.detach()}
        loss = output.loss + spoken
        if self.vision is not None:
            seen = self.vision(model, batch)
            loss, parts = loss + self.weight * seen.loss, parts | seen.parts
        return Output(loss, parts, output.embeddings)


class SpokenPrediction(nn.Module):
    """The hybrid's objective: the decoder speaks what a frozen model predicts, and nothing else learns."""

    def forward(self, model: SpeaksEmbeddings, batch: Batch) -> Output:
        """`loss` in nats per token."""
        with torch.no_grad():
            predicted = model.predict(batch.features, batch.query, batch.query_mask)
        loss = spoken_loss(model, predicted, batch)
        return Output(loss, {"decoder": loss.detach()})


def spoken_loss(model: SpeaksEmbeddings, embeddings: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy of the batch's targets under the decoder, given embeddings (B, E)."""
    return next_token_loss(model.decoder(embeddings, batch.target[:, :-1], batch.target_mask[:, :-1]), batch)


def build_embedding_objective(config: EmbeddingArmConfig) -> EmbeddingPrediction:
    """The objective of a VL-JEPA run."""
    weight = config.predictor.reconstruction
    vision = HiddenVision(config.predictor.mask_ratio) if weight else None
    return EmbeddingPrediction(build_prediction(config), vision, weight)
