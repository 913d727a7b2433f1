"""Distillation (arXiv 1503.02531): a smaller model learns what a trained one says, beside the data.

Shape legend: B samples, L target tokens, V vocabulary, E embedding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab.objectives.contrastive import InfoNCE
from archlab.objectives.next_token import GivesLogits, next_token_loss
from archlab.objectives.output import Output

if TYPE_CHECKING:
    from archlab.data.batch import Batch


class TokenDistillation(nn.Module):
    """KL divergence from the teacher's distribution of every answer token, and cross-entropy on the answer.

    Args:
        teacher: a trained model; it is not trained, and no part of the objective's state.
        temperature: what the logits of both are divided by; the divergence is multiplied by its square, so that its
            gradient stays as large (section 2).
        weight: of the divergence; the cross-entropy has the rest of 1.
    """

    def __init__(self, teacher: Any, temperature: float, weight: float) -> None:
        super().__init__()
        self._teacher = (teacher.eval(),)  # in a tuple: a module would become one of this one's own
        self.temperature, self.weight = temperature, weight

    def forward(self, model: GivesLogits, batch: Batch) -> Output:
        """`loss` in nats per token."""
        logits = model.logits(batch)
        with torch.no_grad():
            wanted = self._teacher[0].logits(batch)
        divergence = token_divergence(logits, wanted, batch.target_mask[:, 1:], self.temperature)
        loss = next_token_loss(logits, batch)
        parts = {"divergence": divergence.detach(), "cross_entropy": loss.detach()}
        return Output(self.weight * self.temperature**2 * divergence + (1 - self.weight) * loss, parts)


class EmbeddingDistillation(nn.Module):
    """Cosine distance to the embedding that the teacher predicts, and InfoNCE on the target.

    The distance is multiplied by the inverse temperature: that is what the student's own embedding lacks, in InfoNCE's
    logits, to be the teacher's. The target encoder is to be the teacher's, and to stay as it is: both embed into one
    space.

    Args:
        teacher: a trained `EmbeddingArm`; see `TokenDistillation`.
        contrastive: the InfoNCE, whose temperature goes on learning.
        weight: of the distance; InfoNCE has the rest of 1.
    """

    def __init__(self, teacher: Any, contrastive: InfoNCE, weight: float) -> None:
        super().__init__()
        self._teacher = (teacher.eval(),)
        self.contrastive, self.weight = contrastive, weight

    def forward(self, model: Any, batch: Batch) -> Output:
        """`loss` in nats."""
        predicted, target = model.embed(batch)
        with torch.no_grad():
            wanted = self._teacher[0].predict(batch.features, batch.query, batch.query_mask)
        distance = embedding_distance(predicted, wanted)
        output = self.contrastive(_Given(predicted, target), batch)
        scale = self.contrastive.log_scale.detach().exp()
        parts = output.parts | {"distance": distance.detach()}
        return Output(self.weight * scale * distance + (1 - self.weight) * output.loss, parts, output.embeddings)


class _Given:
    """Embeddings that are there already, where a model is asked for."""

    def __init__(self, predicted: Tensor, target: Tensor) -> None:
        self.both = predicted, target

    def embed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.both


def token_divergence(logits: Tensor, wanted: Tensor, real: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean over real tokens of KL(teacher || student), in nats.

    Args:
        logits: of the student (B, L, V); wanted: of the teacher.
        real: True at the tokens that count, (B, L).
        temperature: both are divided by it.
    """
    student, teacher = ((one[real].float() / temperature).log_softmax(-1) for one in (logits, wanted))
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def embedding_distance(predicted: Tensor, wanted: Tensor) -> Tensor:
    """Mean over samples of 1 - cosine, of embeddings (B, E)."""
    return 1 - F.cosine_similarity(predicted.float(), wanted.float(), dim=-1).mean()
