"""An encoder-decoder that has read its sources, as a decoder: the one engine serves both.

Shape legend: B samples, S source tokens, W width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from archlab.layers.cache import Cache


class Translator(Protocol):
    """What generation uses of an encoder-decoder; see `models.protocols.EncoderDecoder`."""

    def new_cache(self) -> Any: ...

    def encode(self, source: Tensor, *, mask: Tensor | None = None) -> Tensor: ...

    def decode(
        self, target: Tensor, memory: Tensor, *, memory_mask: Tensor | None = None, cache: Any = None
    ) -> Tensor: ...


class Conditioned:
    """Continues one target for each source; see `models.protocols.Decoder`. Targets have no padding.

    Args:
        model: in evaluation mode; its `encode` is called once.
        source: ids (B, S).
        mask: True at real tokens of the source, (B, S); None: all are real.

    Raises:
        UserError: the sources are longer than the model reads.
    """

    @torch.inference_mode()
    def __init__(self, model: Translator, source: Tensor, mask: Tensor | None = None) -> None:
        assert isinstance(model, nn.Module)
        self.blocks = nn.ModuleList([model])
        self.config = getattr(model, "config", None)
        self._model: Translator = model
        self._memory, self._mask = model.encode(source, mask=mask), mask

    def new_cache(self) -> list[Cache]:
        """One cache for all layers, with the memory of the sources in it."""
        return [Written(self._memory, self._mask, self._model.new_cache())]

    def __call__(
        self, tokens: Tensor, *, mask: Tensor | None = None, cache: Sequence[Cache] | None = None, keep: int = 0
    ) -> Tensor:
        """See `models.protocols.Decoder`."""
        assert mask is None, "targets begin alike and have no padding"
        (written,) = self.new_cache() if cache is None else cache
        assert isinstance(written, Written)
        logits = self._model.decode(tokens, written.memory, memory_mask=written.memory_mask, cache=written.caches)
        return logits[:, -keep:]


class Written(Cache):
    """What is kept of a batch of sources and the targets written so far.

    Args:
        memory: of the sources, (B, S, W).
        memory_mask: True at their real tokens, (B, S); None: all are real.
        caches: of the decoder's layers.
    """

    def __init__(self, memory: Tensor, memory_mask: Tensor | None, caches: Sequence[Cache]) -> None:
        self.memory, self.memory_mask, self.caches = memory, memory_mask, caches

    @property
    def length(self) -> int:
        """Tokens written."""
        return self.caches[0].length

    def crop(self, length: int) -> None:
        """See `Cache`; the memory stays whole."""
        for cache in self.caches:
            cache.crop(length)

    def select(self, samples: Tensor) -> None:
        """See `Cache`."""
        self.memory = self.memory.index_select(0, samples)
        if self.memory_mask is not None:
            self.memory_mask = self.memory_mask.index_select(0, samples)
        for cache in self.caches:
            cache.select(samples)

    def expand(self, copies: int) -> Written:
        """See `Cache`."""
        mask = None if self.memory_mask is None else self.memory_mask.repeat_interleave(copies, 0)
        caches = [cache.expand(copies) for cache in self.caches]
        return Written(self.memory.repeat_interleave(copies, 0), mask, caches)

    def reserve(self, room: int) -> Written:
        """See `Cache`."""
        return Written(self.memory, self.memory_mask, [cache.reserve(room) for cache in self.caches])
