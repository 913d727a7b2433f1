"""Cross-entropy over the meanings of the training answers: the supervised ceiling.

Shape legend: B samples, M meanings.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

from torch import Tensor, nn
from torch.nn import functional as F

from archlab.objectives.global_batch import share
from archlab.objectives.output import Output


class HasMeaning(Protocol):
    """A batch whose samples have classes."""

    @property
    def meaning(self) -> Tensor:
        """Class of each sample, -1 where it is unknown, (B,)."""
        ...


Batch = TypeVar("Batch", bound=HasMeaning)
_Batch = TypeVar("_Batch", bound=HasMeaning, contravariant=True)


class GivesClassLogits(Protocol[_Batch]):
    """A model that classifies."""

    def class_logits(self, batch: _Batch) -> Tensor:
        """(B, M)."""
        ...


class Classification(nn.Module):
    """Cross-entropy of the target's meaning; the mean is over the samples whose meaning is known (not -1)."""

    def forward(self, model: GivesClassLogits[Batch], batch: Batch) -> Output:
        """`loss` in nats per sample; zero if no meaning is known."""
        logits = model.class_logits(batch).float()
        total = F.cross_entropy(logits, batch.meaning, ignore_index=-1, reduction="sum")
        known = (batch.meaning != -1).sum()
        loss = share(total / known.clamp(min=1), known)
        return Output(loss, {"cross_entropy": loss.detach()}, weight=float(known.clamp(min=1)))
