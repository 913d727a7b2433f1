"""The comparisons of encoder-decoders: with a cache, with padding of both sequences, and in the tokens they generate.

Shape legend: B samples, S source tokens, T target tokens, V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from transformers import GenerationConfig

from archlab.interop.parity.checks import worst
from archlab.interop.parity.decoding import NEW_TOKENS, SPLITS, padded_batch, random_chunks
from archlab.interop.parity.probes import PROBES, questions
from archlab.interop.parity.results import EXACT, STATES, Outcome
from archlab.interop.parity.twin import Twin
from archlab.models.protocols import EncoderDecoder

_START = 0  # the token in front of a target


@torch.no_grad()
def cached_decoding(twin: Twin) -> Outcome:
    """Targets read in random chunks with a cache, source and target padded on the left, against one go without."""
    source, target, expected, chance = *_question(twin), random.Random(0)
    model = cast(EncoderDecoder, twin.model)
    padding = torch.tensor([3, 0])  # of each sample
    pairs = {}
    for split in range(SPLITS):
        count = padding if split else torch.zeros(2, dtype=torch.long)
        padded_source, source_mask = padded_batch(source, count.flip(0), left=True)
        padded, mask = padded_batch(target, count, left=True)
        memory = model.encode(padded_source, mask=source_mask)
        cache, end, found = model.new_cache(), 0, []
        chunks = random_chunks(padded.shape[1], chance)
        for chunk in padded.split(chunks, 1):
            end += chunk.shape[1]
            found.append(model.decode(chunk, memory, mask=mask[:, :end], memory_mask=source_mask, cache=cache))
        logits = torch.cat(found, 1)  # (B, T, V)
        for sample in range(2):
            name = f"split {split}: {count[sample]} padding and chunks of {chunks}"
            pairs[name] = logits[sample, mask[sample]], expected[sample]
    return worst(pairs, STATES)


@torch.no_grad()
def padding_invariance(twin: Twin) -> Outcome:
    """Padded sources and targets against the reference without padding."""
    source, target, expected = _question(twin)
    pairs = {}
    for source_left in (True, False):
        for left in (True, False):
            padded_source, source_mask = padded_batch(source, torch.tensor([4, 1]), left=source_left)
            padded, mask = padded_batch(target, torch.tensor([0, 2]), left=left)
            found = twin.model(padded_source, padded, source_mask=source_mask, mask=mask)
            for sample in range(2):
                sides = ["left" if side else "right" for side in (source_left, left)]
                name = f"sample {sample}: source padded on the {sides[0]}, target on the {sides[1]}"
                pairs[name] = found[sample, mask[sample]], expected[sample]
    return worst(pairs, STATES)


@torch.no_grad()
def generation(twin: Twin) -> Outcome:
    """The likeliest next token, again and again: the same tokens as `generate` of the reference."""
    source, _ = questions(twin)
    settings = GenerationConfig(
        do_sample=False, max_new_tokens=NEW_TOKENS, pad_token_id=0, decoder_start_token_id=_START, use_cache=True
    )
    generate: Callable[..., Tensor] = cast(Any, twin.reference).generate
    expected = generate(source, attention_mask=torch.ones_like(source), generation_config=settings)
    found = greedy(cast(EncoderDecoder, twin.model), source, _START, NEW_TOKENS)
    return worst({"tokens": (found, expected)}, EXACT)


def greedy(model: EncoderDecoder, source: Tensor, start: int, count: int) -> Tensor:
    """The `count` likeliest target tokens, one after the other, behind the one that starts: (B, 1 + count)."""
    memory, cache = model.encode(source), model.new_cache()
    tokens = new = torch.full((len(source), 1), start)
    for _ in range(count):
        new = model.decode(new, memory, cache=cache)[:, -1:].argmax(-1)  # (B, 1)
        tokens = torch.cat([tokens, new], 1)
    return tokens


def _question(twin: Twin) -> tuple[Tensor, Tensor, Tensor]:
    """Source (B, S), target (B, T), and what the reference says, (B, T, V)."""
    source, target = questions(twin)
    return source, target, PROBES["encoder-decoder"].theirs(twin.reference, (source, target))
