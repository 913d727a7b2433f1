"""The loop: read, choose, read what was chosen. Beam search and speculative decoding have their own.

Shape legend: B samples, P tokens of the longest prompt, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from archlab.errors import UserError
from archlab.generate.beam import beam_search
from archlab.generate.sampling import Chooser
from archlab.generate.session import Session, device_of, pad_left
from archlab.generate.settings import BeamSearch, Settings
from archlab.generate.speculative import speculate
from archlab.layers.cache import KVCache
from archlab.models.protocols import Decoder


def generate(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    settings: Settings,
    *,
    draft: Decoder | None = None,
    cache: Sequence[KVCache] | None = None,
) -> list[list[int]]:
    """Continue prompts of any lengths.

    Args:
        model: any decoder, in evaluation mode.
        prompts: ids, B lists.
        settings: how.
        draft: a cheaper model with the same vocabulary that guesses ahead; the tokens follow the same distribution as
            without it. The prompts are then continued one after the other.
        cache: filled before; see `Session`.

    Returns:
        the new tokens of each prompt, the one that ended it included.

    Raises:
        UserError: a prompt is empty, there are more tokens than the model reads, or the options exclude each other.
    """
    if isinstance(settings.strategy, BeamSearch):
        if draft is not None:
            raise UserError("draft: a draft model guesses one continuation; leave out the beams")
        return beam_search(model, prompts, settings, cache=cache)
    if draft is not None:
        if cache is not None:
            raise UserError("draft: the draft model knows nothing of a cache that was filled before; leave one out")
        return [list(speculate(model, draft, prompt, settings)) for prompt in prompts]
    found: list[list[int]] = [[] for _ in prompts]
    ended: set[int] = set()
    going = list(range(len(prompts)))
    for tokens in stream(model, prompts, settings, cache=cache, ended=ended):
        for sample in going:
            found[sample].append(tokens[sample])
        going = [sample for sample in going if sample not in ended]
    return found


@torch.inference_mode()
def stream(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    settings: Settings,
    *,
    cache: Sequence[KVCache] | None = None,
    ended: set[int] | None = None,
) -> Iterator[list[int]]:
    """The next token of every prompt, step by step; what a sample gets after its end means nothing.

    Args:
        ended: the indices of the samples that have ended are added to it as they do. The caller may add others; when
            all are there, the iterator ends.

    Raises:
        UserError: see `generate`.
    """
    tokens, mask = pad_left(prompts, device_of(model))
    session = Session(model, tokens.shape[1] + settings.max_new_tokens - 1, mask=mask, cache=cache)
    choose = Chooser(settings, tokens, mask)
    ended, eos = set() if ended is None else ended, set(settings.eos)
    for made in range(1, settings.max_new_tokens + 1):
        chosen = choose(session.read(tokens)[:, -1])  # (B)
        ids: list[int] = chosen.tolist()
        if eos:
            ended.update(sample for sample, token in enumerate(ids) if token in eos)
        yield ids
        if len(ended) == len(ids) or made == settings.max_new_tokens:
            return
        tokens = chosen[:, None]
