"""Next-token cross-entropy on the answer.

Shape legend: B samples, L target tokens, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from torch import Tensor, nn
from torch.nn import functional as F

from archlab.objectives.global_batch import share
from archlab.objectives.output import Output

if TYPE_CHECKING:
    from archlab.data.batch import Batch

_IGNORED = -100


class GivesLogits(Protocol):
    """A model that predicts the target token by token."""

    def logits(self, batch: Batch) -> Tensor:
        """(B, L - 1, V): entry t predicts `batch.target[:, t + 1]` and has seen the target up to t."""
        ...


class NextToken(nn.Module):
    """Cross-entropy of every answer token given image, query and the tokens before it, [EOS] included.

    Image and query are never predicted. The mean is over the real target tokens of the batch, so that a long answer
    weighs more than a short one, as in language-model training.
    """

    def forward(self, model: GivesLogits, batch: Batch) -> Output:
        """`loss` in nats per token."""
        loss = next_token_loss(model.logits(batch), batch)
        return Output(loss, {"cross_entropy": loss.detach()})


def next_token_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy of `batch.target[:, 1:]` under logits (B, L - 1, V): the mean over real tokens, in nats."""
    real = batch.target_mask[:, 1:]
    labels = batch.target[:, 1:].masked_fill(~real, _IGNORED)
    loss = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=_IGNORED)
    return share(loss, real.sum())
