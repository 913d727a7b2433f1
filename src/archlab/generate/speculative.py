"""Speculative decoding (arXiv 2211.17192): a cheap model guesses several tokens, the model checks them in one call.

What is accepted follows exactly the model's own distribution (section 2.3 and appendix A.1): a guess x, drawn with
probability q(x), stays with probability min(1, p(x) / q(x)); otherwise the token is drawn from max(p - q, 0). Without
sampling p and q are all on one token, and the result is that of the model alone, token for token.

Differs from the paper: penalties and restrictions of the settings apply to both distributions.

Shape legend: V vocabulary, n guesses.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from archlab.generate.sampling import distribution, draw, obey, penalise
from archlab.generate.session import Session, device_of, pad_left
from archlab.generate.settings import BeamSearch, Settings
from archlab.models.protocols import Decoder


def acceptance(p: Tensor, q: Tensor, guess: int) -> float:
    """Probability with which a guess that was drawn from `q` stays, where the model's distribution is `p`, (V) each."""
    return min(1.0, float(p[guess]) / float(q[guess]))


def residual(p: Tensor, q: Tensor) -> Tensor:
    """Weights (V) of the token that replaces a guess which does not stay."""
    rest = (p - q).clamp(min=0)
    return rest if bool(rest.any()) else p  # where the two differ by rounding only


@torch.inference_mode()
def speculate(
    model: Decoder,
    draft: Decoder,
    prompt: Sequence[int],
    settings: Settings,
    *,
    ahead: int = 4,
) -> Iterator[int]:
    """Continue one prompt, token by token.

    Args:
        draft: the cheap model, with the same vocabulary.
        settings: without beam search.
        ahead: most guesses per call of the model.

    Raises:
        UserError: the prompt is empty, or there are more tokens than a model reads, or what a model keeps cannot
            go back, as a recurrent state.
    """
    device = device_of(model)
    sequence = pad_left([prompt], device)[0][0].tolist()
    most = len(sequence) + settings.max_new_tokens
    target, guesser = Session(model, most - 1, rewinds=True), Session(draft, most - 1, rewinds=True)
    rule = _Rule(settings, sequence)
    while len(sequence) < most:
        count = min(ahead, most - len(sequence) - 1)
        guesses: list[int] = []
        guessed_from: list[Tensor] = []
        for _ in range(count):
            unread = [*sequence, *guesses][guesser.length :]
            logits = guesser.read(torch.tensor([unread], device=device))[0, -1]
            guessed_from.append(rule.distribution(logits, guesses))
            guesses.append(rule.draw(guessed_from[-1]))
        unread = [*sequence, *guesses][target.length :]
        logits = target.read(torch.tensor([unread], device=device), keep=count + 1)[0]  # (n + 1, V)
        accepted: list[int] = []
        for guess, q in zip(guesses, guessed_from, strict=True):
            p = rule.distribution(logits[len(accepted)], accepted)
            if rule.uniform() >= acceptance(p, q, guess):
                accepted.append(rule.draw(residual(p, q)))
                break
            accepted.append(guess)
        else:
            accepted.append(rule.draw(rule.distribution(logits[count], accepted)))
        for token in accepted:
            yield token
            if token in settings.eos:
                return
        sequence += accepted
        rule.remember(accepted)
        target.crop(len(sequence) - 1)
        guesser.crop(min(guesser.length, len(sequence) - 1))


class _Rule:
    """Distributions and draws of one continuation."""

    def __init__(self, settings: Settings, prompt: Sequence[int]) -> None:
        assert not isinstance(settings.strategy, BeamSearch)
        self.sampling, self.penalty = settings.strategy, settings.repetition_penalty
        self.rules, self.left = settings.rules, settings.max_new_tokens
        self.uniform = random.Random(0 if self.sampling is None else self.sampling.seed).random
        self.seen = set(prompt)

    def distribution(self, logits: Tensor, after: Sequence[int]) -> Tensor:
        """Of the token after what is remembered and `after`: (V), of logits (V)."""
        logits = logits.float()
        if self.penalty != 1:
            known = torch.zeros_like(logits, dtype=torch.bool)
            known[list(self.seen.union(after))] = True
            logits = penalise(logits, known, self.penalty)
        logits = obey(logits, self.rules, last=len(after) == self.left - 1)
        return distribution(logits, self.sampling)

    def draw(self, weights: Tensor) -> int:
        """A token drawn with these weights (V)."""
        return int(draw(weights, torch.tensor(self.uniform(), dtype=torch.float64, device=weights.device)))

    def remember(self, tokens: Sequence[int]) -> None:
        """Count tokens as seen."""
        self.seen.update(tokens)
        self.left -= len(tokens)
