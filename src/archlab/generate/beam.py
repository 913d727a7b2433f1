"""Beam search: several continuations side by side, the likeliest finished one in the end.

The rules are those of `transformers`: of each prompt the likeliest (1 + number of ids that end a continuation) x K
extensions are looked at, so that K open ones are left even if every beam ends; an extension that ends counts as
finished only if it is among the K likeliest.

Shape legend: B samples, K beams, C extensions looked at, N most new tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from archlab.generate.sampling import obey, penalise, seen
from archlab.generate.session import Session, device_of, pad_left
from archlab.generate.settings import BeamSearch, Settings
from archlab.layers.cache import Cache
from archlab.models.protocols import Decoder

_IMPOSSIBLE = -1e9  # finite, so that sums and comparisons of impossible scores stay defined


@torch.inference_mode()
def beam_search(
    model: Decoder, prompts: Sequence[Sequence[int]], settings: Settings, *, cache: Sequence[Cache] | None = None
) -> list[list[int]]:
    """The best continuation of each prompt; see `generate.engine.generate`."""
    search = settings.strategy
    assert isinstance(search, BeamSearch)
    tokens, mask = pad_left(prompts, device_of(model))
    session = Session(model, tokens.shape[1] + settings.max_new_tokens - 1, mask=mask, cache=cache)
    logits = session.read(tokens)[:, -1]  # (B, V)
    state = _State(len(prompts), search, settings, logits.device)
    repeated = torch.arange(len(prompts), device=logits.device).repeat_interleave(search.beams)  # (B * K)
    session.select(repeated)
    logits = logits[repeated]  # (B * K, V)
    penalty = settings.repetition_penalty
    known = seen(tokens, mask, logits.shape[-1])[repeated] if penalty != 1 else None  # (B * K, V)
    while True:
        scores = logits.float().log_softmax(-1)
        if known is not None:
            scores = penalise(scores, known, penalty)
        scores = obey(scores, settings.rules, last=state.length == settings.max_new_tokens - 1)
        if settings.rules.renormalise:
            scores = scores.log_softmax(-1)
        samples = state.extend(scores)
        if state.done:
            return state.best()
        last = state.tokens[:, :, state.length - 1].reshape(-1, 1)  # (B * K, 1)
        if known is not None:
            known = known[samples].scatter(1, last, True)
        session.select(samples)
        logits = session.read(last)[:, -1]


class _State:
    """Open and finished continuations of every prompt.

    Attributes:
        tokens: open continuations, likeliest first, (B, K, N).
        length: tokens of the open ones.
        done: whether no open continuation matters any more.
    """

    def __init__(self, samples: int, search: BeamSearch, settings: Settings, device: torch.device) -> None:
        self.search, self.most = search, settings.max_new_tokens
        self.eos = torch.tensor(settings.eos, dtype=torch.long, device=device)
        beams = (samples, search.beams)
        self.tokens = torch.zeros(*beams, self.most, dtype=torch.long, device=device)
        self.scores = torch.zeros(beams, device=device)
        self.scores[:, 1:] = _IMPOSSIBLE  # the beams are equal at the start: only the first is extended
        self.finished = torch.zeros_like(self.tokens)
        self.finished_lengths = torch.zeros(beams, dtype=torch.long, device=device)
        self.finished_scores = torch.full(beams, _IMPOSSIBLE, device=device)
        self.is_finished = torch.zeros(beams, dtype=torch.bool, device=device)
        self.is_open = torch.ones(samples, 1, dtype=torch.bool, device=device)  # (B, 1): may still improve
        self.first_sample = torch.arange(samples, device=device)[:, None] * search.beams
        self.length, self.done = 0, False

    def extend(self, log_probs: Tensor) -> Tensor:
        """Extend every open continuation by one token.

        Args:
            log_probs: of the next token, (B * K, V).

        Returns:
            which of the B * K continuations each new one extends, (B * K).
        """
        beams, vocabulary = self.search.beams, log_probs.shape[-1]
        totals = (log_probs.unflatten(0, (-1, beams)) + self.scores[:, :, None]).flatten(1)  # (B, K * V)
        best, index = totals.topk(max(2, 1 + len(self.eos)) * beams)  # (B, C)
        extended, token = index // vocabulary, index % vocabulary
        tokens = _take(self.tokens, extended)  # (B, C, N)
        tokens[:, :, self.length] = token
        self.length += 1
        ends = torch.isin(token, self.eos) | (self.length == self.most)  # (B, C)

        self._finish(tokens, best, ends)
        self.scores, picked = (best + ends * _IMPOSSIBLE).topk(beams)  # (B, K)
        self.tokens = _take(tokens, picked)
        self._close(bool(ends.all()))
        return (self.first_sample + extended.gather(1, picked)).flatten()

    def best(self) -> list[list[int]]:
        """The best finished continuation of each prompt."""
        lengths = self.finished_lengths[:, 0].tolist()
        return [tokens[:length] for tokens, length in zip(self.finished[:, 0].tolist(), lengths, strict=True)]

    def _finish(self, tokens: Tensor, scores: Tensor, ends: Tensor) -> None:
        """Keep the K best of what was finished before and what ends now."""
        beams = self.search.beams
        full = self.is_finished.all(1, keepdim=True) & (self.search.early_stopping is True)
        counts = ends & self.is_open & ~full
        counts[:, beams:] = False
        scores = torch.where(counts, scores / self.length**self.search.length_penalty, _IMPOSSIBLE)
        lengths = torch.full_like(counts, self.length, dtype=torch.long)
        self.finished_scores, kept = torch.cat([self.finished_scores, scores], 1).topk(beams)
        self.finished = _take(torch.cat([self.finished, tokens], 1), kept)
        self.finished_lengths = torch.cat([self.finished_lengths, lengths], 1).gather(1, kept)
        self.is_finished = torch.cat([self.is_finished, counts], 1).gather(1, kept)

    def _close(self, all_end: bool) -> None:
        """See where no open continuation can enter the finished ones any more, as `early_stopping` says."""
        search = self.search
        length = self.most if search.early_stopping == "never" and search.length_penalty > 0 else self.length
        possible = self.scores[:, :1] / length**search.length_penalty  # (B, 1)
        worst = self.finished_scores.amin(1, keepdim=True)
        self.is_open = self.is_open & (~self.is_finished.all(1, keepdim=True) | (possible > worst))
        full = search.early_stopping is True and bool(self.is_finished.all())
        self.done = all_end or full or not bool(self.is_open.any())


def _take(x: Tensor, indices: Tensor) -> Tensor:
    """Rows (B, n, N) of (B, m, N) with the indices (B, n)."""
    return x.gather(1, indices[:, :, None].expand(-1, -1, x.shape[2]))
