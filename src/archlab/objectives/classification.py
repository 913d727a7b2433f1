"""Cross-entropy over the meanings of the training answers: the supervised ceiling.

Shape legend: B samples, M meanings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from torch import Tensor, nn
from torch.nn import functional as F

from archlab.objectives.output import Output

if TYPE_CHECKING:
    from archlab.data.batch import Batch


class GivesClassLogits(Protocol):
    """A model that classifies."""

    def class_logits(self, batch: Batch) -> Tensor:
        """(B, M)."""
        ...


class Classification(nn.Module):
    """Cross-entropy of the target's meaning; the mean is over the samples whose meaning is known (not -1)."""

    def forward(self, model: GivesClassLogits, batch: Batch) -> Output:
        """`loss` in nats per sample; zero if no meaning is known."""
        logits = model.class_logits(batch).float()
        total = F.cross_entropy(logits, batch.meaning, ignore_index=-1, reduction="sum")
        loss = total / (batch.meaning != -1).sum().clamp(min=1)
        return Output(loss, {"cross_entropy": loss.detach()})
