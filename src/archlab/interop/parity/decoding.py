"""The comparisons of decoders: with a cache, with padding, and in the tokens that they generate.

Shape legend: B samples, T tokens, V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from archlab.interop.parity.checks import worst
from archlab.interop.parity.probes import DecoderProbe, questions
from archlab.interop.parity.results import EXACT, STATES, Outcome
from archlab.interop.parity.twin import Twin
from archlab.models.protocols import Decoder

SPLITS = 5
NEW_TOKENS = 8


@torch.no_grad()
def cached_decoding(twin: Twin) -> Outcome:
    """Sequences read in random chunks with a cache, plain and padded on the left, against the reference in one go."""
    tokens, chance = questions(twin), random.Random(0)
    expected = _expected(twin.reference, tokens)
    padding = torch.tensor([3, 0])  # of each sample
    padded, mask = padded_batch(tokens, padding, left=True)
    pairs = {}
    for split in range(SPLITS):
        chunks = random_chunks(tokens.shape[1], chance)
        pairs[f"chunks of {chunks}"] = _in_chunks(twin, tokens, None, chunks), expected
        chunks = random_chunks(padded.shape[1], chance)
        found = _in_chunks(twin, padded, mask, chunks)
        for sample, count in enumerate(padding.tolist()):
            kept = slice(count, count + tokens.shape[1])
            pairs[f"split {split}: {count} padding and chunks of {chunks}"] = found[sample, kept], expected[sample]
    return worst(pairs, STATES)


@torch.no_grad()
def padding_invariance(twin: Twin) -> Outcome:
    """Padded batches against the reference without padding."""
    tokens = questions(twin)
    expected, model = _expected(twin.reference, tokens), cast(Decoder, twin.model)
    pairs = {}
    for left in (True, False):
        padding = torch.tensor([4, 1])
        padded, mask = padded_batch(tokens, padding, left=left)
        found = model(padded, mask=mask)
        for sample in range(len(tokens)):
            side = "left" if left else "right"
            pairs[f"{padding[sample]} padding on the {side}"] = found[sample, mask[sample]], expected[sample]
    return worst(pairs, STATES)


@torch.no_grad()
def generation(twin: Twin) -> Outcome:
    """The likeliest next token, again and again: the same tokens as `generate` of the reference."""
    tokens = questions(twin)
    settings = GenerationConfig(do_sample=False, max_new_tokens=NEW_TOKENS, pad_token_id=0, use_cache=True)
    generate: Callable[..., Tensor] = cast(Any, twin.reference).generate
    expected = generate(tokens, attention_mask=torch.ones_like(tokens), generation_config=settings)
    return worst({"tokens": (greedy(cast(Decoder, twin.model), tokens, NEW_TOKENS), expected)}, EXACT)


def greedy(model: Decoder, tokens: Tensor, count: int) -> Tensor:
    """Continue (B, T) by the `count` likeliest tokens, one after the other: (B, T + count)."""
    cache = model.new_cache()
    new = tokens
    for _ in range(count):
        new = model(new, cache=cache)[:, -1:].argmax(-1)  # (B, 1)
        tokens = torch.cat([tokens, new], 1)
    return tokens


def _expected(reference: PreTrainedModel, tokens: Tensor) -> Tensor:
    return DecoderProbe().theirs(reference, tokens)


def _in_chunks(twin: Twin, tokens: Tensor, mask: Tensor | None, chunks: list[int]) -> Tensor:
    model = cast(Decoder, twin.model)
    cache, end, logits = model.new_cache(), 0, []
    for chunk in tokens.split(chunks, 1):
        end += chunk.shape[1]
        logits.append(model(chunk, mask=None if mask is None else mask[:, :end], cache=cache))
    return torch.cat(logits, 1)  # (B, T, V)


def random_chunks(length: int, chance: random.Random) -> list[int]:
    """Random lengths of at least one that add up to `length`."""
    cuts = sorted(chance.sample(range(1, length), chance.randint(1, 4)))
    return [end - start for start, end in zip([0, *cuts], [*cuts, length], strict=True)]


def padded_batch(tokens: Tensor, padding: Tensor, *, left: bool) -> tuple[Tensor, Tensor]:
    """Tokens with as much padding (B) as asked for on one side, the rest on the other, and which of them are real.

    Padding holds a real id, so that a model which looks at it is noticed.
    """
    width = tokens.shape[1] + int(padding.max())
    before = padding if left else torch.zeros_like(padding)
    places = torch.arange(width)[None] - before[:, None]  # (B, width)
    mask = (places >= 0) & (places < tokens.shape[1])
    padded = tokens.gather(1, places.clamp(0, tokens.shape[1] - 1)).masked_fill(~mask, 7)
    return padded, mask
