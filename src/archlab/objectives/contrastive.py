"""Bi-directional InfoNCE between predicted and target embeddings (VL-JEPA, section 3.1).

Shape legend: B samples, E embedding.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab.config import ContrastiveConfig
from archlab.objectives.output import Output

if TYPE_CHECKING:
    from archlab.data.batch import Batch

MAX_SCALE = 100.0
"""Largest inverse temperature, as in CLIP (arXiv 2103.00020, section 2.5)."""


class GivesEmbeddings(Protocol):
    """A model that predicts the embedding of the target."""

    def embed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Predicted and target embeddings, (B, E) each, of any length."""
        ...


class InfoNCE(nn.Module):
    """Tell each sample's target from the other targets of the batch, and its prediction from the other predictions.

    What counts as a positive or a negative of sample i among the samples j:

    - "none": j = i is the only positive; all others are negatives, even those with the same target.
    - "text": as "none", but samples with the same target string as i are no negatives of i: they are left out.
    - "meaning": every j with the meaning of i is a positive. The wanted distribution is uniform over the positives
      (SupCon, arXiv 2004.11362, equation 2: the mean stands outside the logarithm). A sample of unknown meaning (-1)
      has only itself.

    The paper does not say what it does with equal targets in a batch. Owns one parameter, the logarithm of the inverse
    temperature.

    Args:
        config: kind of positives and initial temperature.
    """

    def __init__(self, config: ContrastiveConfig) -> None:
        super().__init__()
        self.positives = config.positives
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)))

    def forward(self, model: GivesEmbeddings, batch: Batch) -> Output:
        """`loss` is the mean of both directions, in nats."""
        predicted, target = model.embed(batch)
        with torch.no_grad():  # the parameter itself, so that it can come back: a clamped value would get no gradient
            self.log_scale.clamp_(max=math.log(MAX_SCALE))
        positives, ignore = self._relations(batch)
        to_target, to_predicted = info_nce(predicted, target, self.log_scale.exp(), positives, ignore)
        loss = (to_target + to_predicted) / 2
        parts = {
            "predicted_to_target": to_target.detach(),
            "target_to_predicted": to_predicted.detach(),
            "temperature": (-self.log_scale.detach()).exp(),
        }
        return Output(loss, parts, {"predicted": predicted.detach(), "target": target.detach()})

    def _relations(self, batch: Batch) -> tuple[Tensor | None, Tensor | None]:
        """Positives and pairs to ignore, (B, B) or None."""
        if self.positives == "meaning":
            return same_meaning(batch.meaning), None
        if self.positives == "text":
            own = torch.eye(len(batch.text), dtype=torch.bool, device=batch.text.device)
            return None, (batch.text[:, None] == batch.text) & ~own
        return None, None


def same_meaning(meaning: Tensor) -> Tensor:
    """True where two of the samples have one meaning, (B) -> (B, B); one of unknown meaning (-1) has only itself."""
    own = torch.eye(len(meaning), dtype=torch.bool, device=meaning.device)
    known = meaning != -1
    return own | ((meaning[:, None] == meaning) & known[:, None])


def info_nce(
    predicted: Tensor,
    target: Tensor,
    scale: Tensor | float,
    positives: Tensor | None = None,
    ignore: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """InfoNCE of cosine similarities, in both directions and in float32 even under autocast.

    With s_ij = scale * cos(predicted_i, target_j) and the positives P(i) of row i, the first direction is the mean over
    i of the mean over p in P(i) of -log(exp s_ip / sum_j exp s_ij). The second is the same on the transposed matrices.

    Args:
        predicted, target: (B, E), normalised here.
        scale: inverse temperature.
        positives: True where target j is a positive of prediction i, (B, B), at least one in each row and column; by
            default the diagonal.
        ignore: True where target j is neither positive nor negative of prediction i, (B, B).

    Returns:
        the losses from predicted to target and from target to predicted.
    """
    with torch.autocast(predicted.device.type, enabled=False):  # bfloat16 would round logits near 100 to steps of 0.5
        predicted, target = F.normalize(predicted.float(), dim=-1), F.normalize(target.float(), dim=-1)
        logits = scale * predicted @ target.T  # (B, B)
        if positives is None:
            positives = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        if ignore is not None:
            logits = logits.masked_fill(ignore, -torch.inf)
        return _cross_entropy(logits, positives), _cross_entropy(logits.T, positives.T)


def _cross_entropy(logits: Tensor, positives: Tensor) -> Tensor:
    """Mean over rows of the cross-entropy with the uniform distribution over the row's positives."""
    log_probabilities = logits.log_softmax(-1).masked_fill(~positives, 0.0)
    return -(log_probabilities.sum(-1) / positives.sum(-1)).mean()
