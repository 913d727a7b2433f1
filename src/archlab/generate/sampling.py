"""From logits to a token: penalties, restrictions, draws. Every function is pure.

Shape legend: B samples, V vocabulary; leading axes of logits are free.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from archlab.generate.settings import BeamSearch, Rules, Sampling, Settings

_COLDEST = 1e-30  # logits over colder ones may overflow float32


def penalise(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make tokens that were seen less likely; see `Settings.repetition_penalty`.

    Args:
        logits: or log-probabilities, (..., V).
        seen: True at the tokens, (..., V).
    """
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def obey(scores: Tensor, rules: Rules, *, last: bool) -> Tensor:
    """Logits or log-probabilities (..., V) with -inf at the tokens that the rules leave out.

    Args:
        last: whether no further token may follow the next one.
    """
    if last and rules.forced_end is not None:
        forced = torch.full_like(scores, -math.inf)
        forced[..., rules.forced_end] = 0
        return forced
    if rules.forbidden:
        return scores.index_fill(-1, torch.tensor(rules.forbidden, device=scores.device), -math.inf)
    return scores


def restrict(logits: Tensor, sampling: Sampling) -> Tensor:
    """Logits (..., V) after temperature, top-k, top-p and min-p, in this order; -inf at what is left out.

    The likeliest token always stays. Tokens as likely as the last that top-k keeps stay too.
    """
    if sampling.temperature != 1:
        logits = logits / max(sampling.temperature, _COLDEST)
    if 0 < sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k).values[..., -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    if sampling.top_p < 1:
        ascending, order = logits.sort(-1)
        left_out = ascending.softmax(-1).cumsum(-1) <= 1 - sampling.top_p
        left_out[..., -1] = False
        logits = logits.masked_fill(left_out.scatter(-1, order, left_out), -math.inf)
    if sampling.min_p > 0:
        probabilities = logits.softmax(-1)
        least = sampling.min_p * probabilities.amax(-1, keepdim=True)
        logits = logits.masked_fill(probabilities < least, -math.inf)
    return logits


def distribution(logits: Tensor, sampling: Sampling | None) -> Tensor:
    """Probabilities (..., V) of the next token; all on the likeliest one without sampling."""
    if sampling is None:
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).float()
    return restrict(logits - logits.amax(-1, keepdim=True), sampling).softmax(-1)  # 0 stays 0, however cold it is


def draw(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """The token at which the cumulative probability first exceeds a number: tokens (...) of (..., V).

    Args:
        probabilities: they need not add up to one.
        uniform: float64 in [0, 1), (...).
    """
    cumulative = probabilities.double().cumsum(-1)
    # Divided by its last entry, it ends in exactly 1: rounding never leads past the last possible token.
    return torch.searchsorted(cumulative / cumulative[..., -1:], uniform[..., None], right=True)[..., 0]


class Chooser:
    """Chooses the next token of every sample, step after step.

    A sample's random numbers depend on the seed and on its place in the batch only.

    Args:
        settings: without beam search.
        prompts: ids (B, P).
        mask: True at real tokens, (B, P); None: all are real.
    """

    def __init__(self, settings: Settings, prompts: Tensor, mask: Tensor | None) -> None:
        assert not isinstance(settings.strategy, BeamSearch)
        self.sampling, self.penalty = settings.strategy, settings.repetition_penalty
        self._rules, self._steps = settings.rules, settings.max_new_tokens
        self._prompts, self._mask = prompts, mask
        self._seen: Tensor | None = None  # (B, V), made when V is known
        self._uniform: Tensor | None = None
        if self.sampling is not None:
            generator = torch.Generator().manual_seed(self.sampling.seed)
            size = (len(prompts), settings.max_new_tokens)
            uniform = torch.rand(size, generator=generator, dtype=torch.float64)
            self._uniform = uniform.T.contiguous().to(prompts.device)  # (steps, B)
        self._step = 0

    def __call__(self, logits: Tensor) -> Tensor:
        """Tokens (B) of the logits (B, V)."""
        if self.penalty != 1:
            if self._seen is None:
                self._seen = seen(self._prompts, self._mask, logits.shape[-1])
            logits = penalise(logits.float(), self._seen, self.penalty)
        logits = obey(logits, self._rules, last=self._step == self._steps - 1)
        if self._uniform is None:
            token = logits.argmax(-1)
        else:
            token = draw(distribution(logits.float(), self.sampling), self._uniform[self._step])
        if self._seen is not None:
            self._seen.scatter_(1, token[:, None], True)
        self._step += 1
        return token


def seen(tokens: Tensor, mask: Tensor | None, vocabulary: int) -> Tensor:
    """Which ids occur in tokens (B, P), of which `mask` is True at real ones: (B, V)."""
    real = torch.ones_like(tokens) if mask is None else mask.long()
    counts = tokens.new_zeros(len(tokens), vocabulary)
    return counts.scatter_add_(1, tokens, real) > 0
