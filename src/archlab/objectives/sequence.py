"""Cross-entropy of the next token in language modelling and translation.

Shape legend: B samples, T tokens, L target tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn
from torch.nn import functional as F

from archlab.data.text.batch import Pairs, Tokens
from archlab.objectives.global_batch import share
from archlab.objectives.output import Output

_IGNORED = -100


class Continues(Protocol):
    """A model of the next token."""

    def __call__(self, tokens: Tensor, /) -> Tensor:
        """(B, T) -> logits (B, T, V)."""
        ...


class Translates(Protocol):
    """A model of the next token of a translation."""

    def __call__(self, source: Tensor, target: Tensor, /, *, source_mask: Tensor) -> Tensor:
        """Ids (B, S) and (B, L) -> logits (B, L, V); entry t has seen the target up to t and all of the source."""
        ...


class LanguageModelling(nn.Module):
    """Mean cross-entropy of every token given those before it in its stretch, in nats per token."""

    def forward(self, model: Continues, batch: Tokens) -> Output:
        """`loss`."""
        logits = model(batch.tokens[:, :-1])  # (B, T, V)
        count = batch.tokens[:, 1:].numel()
        loss = share(F.cross_entropy(logits.flatten(0, 1).float(), batch.tokens[:, 1:].flatten()), count)
        return Output(loss, {"cross_entropy": loss.detach()}, weight=float(count))


class Translation(nn.Module):
    """Mean cross-entropy of the real target tokens, [EOS] included, with label smoothing.

    Differs from the paper ("Attention is all you need", section 5.4) as `F.cross_entropy` does: the smoothed mass is
    spread over all entries, the right one included.

    Args:
        label_smoothing: mass that is taken from the right token.
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, model: Translates, batch: Pairs) -> Output:
        """`loss`."""
        logits = model(batch.source, batch.target[:, :-1], source_mask=batch.source_mask)  # (B, L - 1, V)
        labels = batch.target[:, 1:].masked_fill(~batch.target_mask[:, 1:], _IGNORED).flatten()
        real = batch.target_mask[:, 1:].sum()
        mean = F.cross_entropy(
            logits.flatten(0, 1).float(), labels, ignore_index=_IGNORED, label_smoothing=self.label_smoothing
        )
        loss = share(mean, real)
        return Output(loss, {"cross_entropy": loss.detach()}, weight=float(real))
