"""Multi-token prediction: the next token, and tokens further ahead, each by a module of its own.

Shape legend: B samples, T tokens, n = T - k positions of the k-th module, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab.objectives.output import Output

if TYPE_CHECKING:
    from archlab.models.deepseek import Deepseek
    from archlab.models.multi_token import ExtraPrediction

_IGNORED = -100


class MultiTokenPrediction(nn.Module):
    """Cross-entropy of the next token and of those further ahead (DeepSeek-V3, arXiv 2412.19437, equations 24 and 25).

    Differs from the paper: each cross-entropy is the mean over the tokens that it predicts; the paper divides the sums
    by T, although n - 1 tokens are predicted.

    Args:
        weight: lambda, of the mean over the modules; 0.3, later 0.1 in the paper (section 4.2).
    """

    def __init__(self, weight: float = 0.3) -> None:
        super().__init__()
        self.weight = weight

    def forward(
        self, model: Deepseek, extras: Sequence[ExtraPrediction], tokens: Tensor, *, mask: Tensor | None = None
    ) -> Output:
        """`loss` in nats per token, in parts `next` and `ahead 1`, `ahead 2` and so on.

        Args:
            model: predicts the next token.
            extras: one or more, each predicts one token further than the one before.
            tokens: ids (B, T).
            mask: True at real tokens, (B, T), which stand side by side; None: all are real.
        """
        states = model.states(tokens, mask=mask)
        first = furthest_token_loss(model.head(states), tokens, mask)
        further = []
        for extra in extras:
            states = extra(model, states, tokens, mask=mask)
            further.append(furthest_token_loss(model.head(states), tokens, mask))
        parts = {"next": first.detach()} | {f"ahead {k}": loss.detach() for k, loss in enumerate(further, 1)}
        return Output(first + self.weight * torch.stack(further).mean(), parts)


def furthest_token_loss(logits: Tensor, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean cross-entropy in nats of logits whose last position predicts the token after the last.

    Args:
        logits: (B, n, V); position i predicts token i + T - n + 1.
        tokens: ids (B, T).
        mask: True at real tokens, (B, T), which stand side by side; None: all are real.
    """
    count = logits.shape[1] - 1  # the last position predicts what is not known
    labels = tokens[:, tokens.shape[1] - count :]  # (B, n - 1)
    if mask is not None:
        real = mask[:, :count] & mask[:, mask.shape[1] - count :]
        labels = labels.masked_fill(~real, _IGNORED)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels.flatten(), ignore_index=_IGNORED)
