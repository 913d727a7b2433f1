"""A batch of sequences that a decoder continues: cache, mask, and how far it has read.

Shape legend: B samples, P tokens of the longest prompt, T new tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from archlab.errors import UserError
from archlab.layers.cache import Cache, KVCache, SlidingCache
from archlab.models.protocols import Decoder

_PADDING = 0  # any id: the mask hides it


def pad_left(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Prompts as one batch that ends at the same place.

    Returns:
        ids (B, P), and True at real tokens (B, P), None where all are.

    Raises:
        UserError: there is no prompt, or one has no token.
    """
    lengths = [len(prompt) for prompt in prompts]
    if not lengths or min(lengths) == 0:
        raise UserError("prompt of 0 tokens: there must be at least one to continue; give a text or a [BOS] token")
    longest = max(lengths)
    tokens = torch.tensor([[_PADDING] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    if min(lengths) == longest:
        return tokens, None
    starts = longest - torch.tensor(lengths, device=device)
    return tokens, torch.arange(longest, device=device) >= starts[:, None]


class Session:
    """Reads tokens with a model, each once.

    The model's own kinds of caches are used; where one would grow without bound, memory is set aside (`Cache.reserve`).

    Args:
        model: any decoder.
        room: most tokens that will be read.
        mask: True at the real tokens of the prompts, (B, P); None: all are real. What is read later is real.
        cache: filled before; None: new ones. The tokens in them are real.
        rewinds: whether `crop` will be called: windows then forget nothing.

    Raises:
        UserError: `room` is more than the model reads, or what it keeps cannot go back.
    """

    def __init__(
        self,
        model: Decoder,
        room: int,
        *,
        mask: Tensor | None = None,
        cache: Sequence[Cache] | None = None,
        rewinds: bool = False,
    ) -> None:
        self.model = model
        kept = model.new_cache() if cache is None else list(cache)
        self.length = self._start = kept[0].length
        room += self._start
        limit = context(model)
        if limit is not None and room > limit:
            raise UserError(
                f"max_new_tokens: {room} tokens would be read, but this model reads at most {limit}; "
                f"lower it by {room - limit} or shorten the prompt"
            )
        if rewinds and not all(isinstance(layer, KVCache) for layer in kept):
            raise UserError("draft: a recurrent state cannot go back to before a wrong guess; leave out the draft")
        if rewinds:
            kept = [KVCache() if isinstance(layer, SlidingCache) and not layer.length else layer for layer in kept]
        # One more than is read: full memory would be another program to compile than memory with room behind it.
        self.cache: list[Cache] = [layer.reserve(room + 1) for layer in kept]
        self._mask = None
        if mask is not None:
            self._mask = mask.new_ones(len(mask), room)
            self._mask[:, self._start : self._start + mask.shape[1]] = mask

    def read(self, tokens: Tensor, keep: int = 1) -> Tensor:
        """Read the next tokens (B, T): logits (B, keep, V) after the last `keep` of them."""
        self.length += tokens.shape[1]
        mask = None if self._mask is None else self._mask[:, : self.length]
        return self.model(tokens, mask=mask, cache=self.cache, keep=keep)

    def select(self, samples: Tensor) -> None:
        """Go on with the samples that have these indices (N); one may be named several times."""
        for layer in self.cache:
            layer.select(samples)
        if self._mask is not None:
            self._mask = self._mask.index_select(0, samples)

    def crop(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        for layer in self.cache:
            layer.crop(length)
        self.length = length


def context(model: object) -> int | None:
    """Most tokens that a model reads, None where it has no limit."""
    limit: int | None = getattr(getattr(model, "config", None), "context", None)
    return limit


def device_of(model: Decoder) -> torch.device:
    """Where the model computes."""
    return next(model.blocks.parameters()).device
