"""Bi-directional InfoNCE between predicted and target embeddings (VL-JEPA, section 3.1).

Shape legend: B samples of all processes, b of this one, c samples of a block, E embedding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from archlab.config import ContrastiveConfig
from archlab.objectives.global_batch import gather, is_spread, place, share
from archlab.objectives.output import Output

if TYPE_CHECKING:
    from archlab.data.batch import Batch

MAX_SCALE = 100.0
"""Largest inverse temperature, as in CLIP (arXiv 2103.00020, section 2.5)."""

MAX_SIMILARITIES = 2**24
"""Most similarities that are held at once, 64 MiB in float32; see `info_nce_in_blocks`."""

Relations = Callable[[int, int], tuple[Tensor, Tensor | None]]
"""Own samples from `start` to `stop` -> which of all samples are their positives, and which are ignored, (c, B)."""


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
    temperature. The batch is that of all processes, and however large it is, memory is bounded.

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
        scale, relations = self.log_scale.exp(), self._relations(batch)
        if is_spread() or len(predicted) ** 2 > MAX_SIMILARITIES:
            to_target, to_predicted = info_nce_in_blocks(predicted, target, scale, relations, MAX_SIMILARITIES)
        else:
            to_target, to_predicted = info_nce(predicted, target, scale, *relations(0, len(predicted)))
        loss = (to_target + to_predicted) / 2
        parts = {
            "predicted_to_target": to_target.detach(),
            "target_to_predicted": to_predicted.detach(),
            "temperature": (-self.log_scale.detach()).exp(),
        }
        return Output(loss, parts, {"predicted": predicted.detach(), "target": target.detach()})

    def _relations(self, batch: Batch) -> Relations:
        labels = batch.text if self.positives == "text" else batch.meaning
        every = gather(labels)  # (B,)
        first, total = place(len(labels))
        columns = torch.arange(total, device=labels.device)

        def relations(start: int, stop: int) -> tuple[Tensor, Tensor | None]:
            own = columns[first + start : first + stop, None] == columns  # (c, B)
            equal = labels[start:stop, None] == every
            if self.positives == "meaning":
                return own | (equal & (labels[start:stop, None] != -1)), None
            return own, equal & ~own if self.positives == "text" else None

        return relations


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
        return _cross_entropies(logits, positives).mean(), _cross_entropies(logits.T, positives.T).mean()


def info_nce_in_blocks(
    predicted: Tensor, target: Tensor, scale: Tensor, relations: Relations, limit: int
) -> tuple[Tensor, Tensor]:
    """`info_nce` of the batch of all processes (this one's share of it), with at most `limit` similarities at once.

    A process scores its own predictions against all targets and its own targets against all predictions, some rows at a
    time. The backward pass makes each block again instead of keeping it, so that memory does not grow with B^2.

    Args:
        predicted, target: of this process (b, E).
        relations: symmetric, so that one serves both directions.
    """
    with torch.autocast(predicted.device.type, enabled=False):
        predicted, target = F.normalize(predicted.float(), dim=-1), F.normalize(target.float(), dim=-1)
        rows = max(1, limit // place(len(predicted))[1])

        def block(own: Tensor, every: Tensor, start: int) -> Tensor:
            logits = scale * own[start : start + rows] @ every.T  # (c, B)
            positives, ignore = relations(start, min(start + rows, len(own)))
            if ignore is not None:
                logits = logits.masked_fill(ignore, -torch.inf)
            return _cross_entropies(logits, positives)

        def direction(own: Tensor, every: Tensor) -> Tensor:
            blocks = [
                checkpoint(block, own, every, start, use_reentrant=False, preserve_rng_state=False)
                for start in range(0, len(own), rows)
            ]
            return share(torch.cat(blocks).mean(), len(own))

        return direction(predicted, gather(target)), direction(target, gather(predicted))


def _cross_entropies(logits: Tensor, positives: Tensor) -> Tensor:
    """Of each row, with the uniform distribution over its positives."""
    log_probabilities = logits.log_softmax(-1).masked_fill(~positives, 0.0)
    return -(log_probabilities.sum(-1) / positives.sum(-1))
