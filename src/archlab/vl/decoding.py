"""Cached decoding: read a prefix once, then continue it greedily or score many candidate continuations.

Shape legend: B samples, P prefix tokens, C candidates, L tokens per candidate, W width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from archlab.layers import masks
from archlab.layers.block import CrossStack, TransformerStack
from archlab.layers.cache import Cache, DecoderCache, KVCache

_SCORED_TOKENS = 256  # candidate tokens scored at once; bounds the memory of the logits


class Continues(Protocol):
    """A stack that continues what its caches hold; see `TransformerStack.forward`."""

    def __call__(self, x: Tensor, /, *, mask: Tensor, positions: Tensor, caches: Sequence[Any]) -> Tensor: ...


class Embeds(Protocol):
    """Ids to what a stack reads, and its states to logits; see `layers.embeddings.TokenEmbedding`."""

    def __call__(self, ids: Tensor, /) -> Tensor: ...

    def logits(self, states: Tensor, /) -> Tensor: ...


@dataclass(frozen=True)
class Prefix:
    """Keys and values of a prefix that was run through a stack.

    Attributes:
        caches: one per layer, (B, heads, P, head width) each.
        mask: True at real tokens, (B, P).
        length: real tokens, (B,): the position of the first continuation token.
    """

    caches: Sequence[Cache]
    mask: Tensor
    length: Tensor

    @classmethod
    def run(cls, stack: TransformerStack, embeddings: Tensor, mask: Tensor, attend: Tensor) -> Prefix:
        """Run embeddings (B, P, W) with attention mask `attend` and keep every layer's keys and values."""
        caches = [KVCache() for _ in range(stack.depth)]
        positions = (mask.long().cumsum(1) - 1).clamp(min=0)
        stack(embeddings, mask=attend, positions=positions, caches=caches)
        return cls(caches, mask, mask.long().sum(1))


@dataclass(frozen=True)
class Memory(Prefix):
    """What an encoder read, for a decoder with cross-attention: nothing stands before the answer.

    Attributes:
        states: of the encoder (B, S, W).
        states_mask: True at its real tokens (B, S).
    """

    states: Tensor
    states_mask: Tensor

    @classmethod
    def of(cls, stack: CrossStack, states: Tensor, states_mask: Tensor) -> Memory:
        """With empty caches; the first continuation computes the keys and values of the memory, the others share."""
        nothing = states_mask[:, :0]
        caches = [DecoderCache() for _ in range(stack.depth)]
        return cls(caches, nothing, nothing.long().sum(1), states, states_mask)

    def reader(self, stack: CrossStack) -> Continues:
        """The decoder over this memory."""
        return partial(stack, memory=self.states, memory_mask=self.states_mask)


@dataclass(frozen=True)
class Step:
    """One step of decoding.

    Attributes:
        token: the chosen ids (B,).
        logits: what they were chosen from, (B, V).
        running: True where the row had not ended before, (B,); elsewhere the token is [EOS].
    """

    token: Tensor
    logits: Tensor
    running: Tensor


@torch.no_grad()
def greedy_steps(
    stack: Continues, embedding: Embeds, prefix: Prefix, max_tokens: int, bos: int, eos: int
) -> Iterator[Step]:
    """Continue a prefix by the most likely token until every row has ended, or nobody asks for more.

    Args:
        embedding: of the tokens, also the output projection.
        prefix: its caches are extended, and cropped back in the end, so that it can be used again.
        max_tokens: most steps.
    """
    start = prefix.mask.shape[1]
    token = torch.full_like(prefix.length, bos)
    mask, position = prefix.mask, prefix.length
    ended = torch.zeros_like(token, dtype=torch.bool)
    try:
        for _ in range(max_tokens):
            mask = F.pad(mask, (0, 1), value=True)
            state = stack(
                embedding(token[:, None]), mask=masks.padding(mask), positions=position[:, None], caches=prefix.caches
            )
            logits = embedding.logits(state[:, -1]).float()
            token = torch.where(ended, eos, logits.argmax(-1))
            yield Step(token, logits, ~ended)
            ended = ended | (token == eos)
            if bool(ended.all()):
                return
            position = position + 1
    finally:
        for cache in prefix.caches:
            cache.crop(start)


def collect(steps: Iterable[Step]) -> Tensor:
    """Ids (B, steps) of all steps, without [BOS], filled with [EOS] after the end."""
    return torch.stack([step.token for step in steps], 1)


@torch.no_grad()
def continuation_log_probs(
    stack: Continues, embedding: Embeds, prefix: Prefix, candidates: Tensor, candidate_mask: Tensor
) -> Tensor:
    """Log-probability of every candidate token after every prefix.

    The candidates are packed behind one prefix and kept apart by the mask, so that the prefix is neither run nor copied
    per candidate.

    Args:
        embedding: of the tokens, also the output projection.
        candidates: ids (C, L), [BOS] first; candidate_mask: True at real tokens (C, L).

    Returns:
        log-probabilities of `candidates[:, 1:]`, (B, C, L - 1), zero at padding.
    """
    inputs, labels, real = candidates[:, :-1], candidates[:, 1:], candidate_mask[:, 1:]
    samples, (count, length) = prefix.mask.shape[0], inputs.shape
    start = prefix.mask.shape[1]
    together = max(1, _SCORED_TOKENS // length)
    scores = []
    for first in range(0, count, together):
        chunk = inputs[first : first + together]  # (c, L - 1)
        packed = chunk.reshape(1, -1).expand(samples, -1)  # (B, c * (L - 1))
        owner = torch.arange(len(chunk), device=chunk.device).repeat_interleave(length)
        step = torch.arange(length, device=chunk.device).repeat(len(chunk))
        own = (owner[:, None] == owner) & masks.causal(step[None], step[None]).reshape(len(step), -1)
        attend = torch.cat(
            [prefix.mask[:, None].expand(-1, len(step), -1), own.expand(samples, -1, -1)], -1
        )  # (B, c * (L - 1), P + c * (L - 1))
        states = stack(
            embedding(packed), mask=attend[:, None], positions=prefix.length[:, None] + step, caches=prefix.caches
        )
        for cache in prefix.caches:
            cache.crop(start)
        logits = embedding.logits(states).float().unflatten(1, (len(chunk), length))  # (B, c, L - 1, V)
        wanted = labels[first : first + together].expand(samples, -1, -1)[..., None]
        scores.append(logits.log_softmax(-1).gather(-1, wanted)[..., 0])
    return torch.cat(scores, 1) * real
