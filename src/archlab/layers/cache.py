"""What a layer keeps of the tokens that it has seen, passed in by the caller.

Three ways to keep keys and values, all `KVCache` to attention, and `Cache`, what they share with recurrent states:

- `KVCache` grows with every call, and gradients pass through it.
- `StaticCache` has all its memory from the start and writes in place: no copies, but no gradients.
- `SlidingCache` forgets what lies outside a window.

Shape legend: B samples, K key-value heads, T tokens, D width of a head.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor, cat

from archlab.errors import UserError


class Cache(ABC):
    """Memory of one layer for one batch of sequences."""

    @property
    @abstractmethod
    def length(self) -> int:
        """Number of tokens seen, padding included."""

    @abstractmethod
    def crop(self, length: int) -> None:
        """Forget all but the first `length` tokens.

        Raises:
            UserError: what came before them is no longer known.
        """

    @abstractmethod
    def select(self, samples: Tensor) -> None:
        """Keep the samples with these indices (N), in this order; one may be named several times."""

    @abstractmethod
    def expand(self, copies: int) -> Cache:
        """A new one with every sample repeated `copies` times in a row, B * copies.

        The candidates that continue one prefix share its computation; the original is left as it is.
        """

    def reserve(self, room: int) -> Cache:
        """What to use instead where `room` tokens will be kept at most, without gradients.

        An empty cache that would grow with every call gives one with memory for all of them; others give themselves.
        """
        return self


class KVCache(Cache):
    """Keys and values; grows with every call of its layer.

    Differentiable: gradients reach the keys and values that were appended.
    """

    def __init__(self) -> None:
        self._kept: tuple[Tensor, Tensor] | None = None

    @property
    def length(self) -> int:
        """See `Cache`."""
        return self.held

    @property
    def held(self) -> int:
        """Number of tokens whose keys and values are kept: the last ones."""
        return 0 if self._kept is None else self._kept[0].shape[2]

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add keys and values (B, K, T, D), already turned to their positions.

        Returns:
            those held before and the new ones, (B, K, held + T, D) each.
        """
        if self._kept is not None:
            keys, values = cat([self._kept[0], keys], 2), cat([self._kept[1], values], 2)
        self._kept = keys, values
        return keys, values

    def read(self) -> tuple[Tensor, Tensor]:
        """All keys and values, (B, K, held, D) each."""
        assert self._kept is not None, "nothing has been appended yet"
        return self._kept

    def crop(self, length: int) -> None:
        """See `Cache`."""
        assert 0 <= length <= self.length, f"cannot crop {self.length} tokens to {length}"
        if self._kept is not None:
            keys, values = self._kept
            self._kept = keys[:, :, :length], values[:, :, :length]

    def select(self, samples: Tensor) -> None:
        """See `Cache`."""
        if self._kept is not None:
            keys, values = self._kept
            self._kept = keys.index_select(0, samples), values.index_select(0, samples)

    def expand(self, copies: int) -> KVCache:
        """See `Cache`; a cache of the same kind."""
        expanded = self._twin()
        if self._kept is not None:
            keys, values = self._kept
            expanded._kept = keys.repeat_interleave(copies, 0), values.repeat_interleave(copies, 0)
        return expanded

    def reserve(self, room: int) -> KVCache:
        """See `Cache`."""
        return StaticCache(room) if type(self) is KVCache and not self.held else self

    def _twin(self) -> KVCache:
        """A cache of the same kind and length, without keys and values."""
        return KVCache()


class SlidingCache(KVCache):
    """Keys and values for tokens that see the last `window` ones, their own included.

    Between two calls it keeps at most `window` - 1 tokens, all that a next one may look at. The mask of a call covers
    what is held and the new tokens (`CausalContext.within`).

    Args:
        window: number of tokens.
    """

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = window
        self._seen = 0

    @property
    def length(self) -> int:
        """See `Cache`."""
        return self._seen

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """See `KVCache`; returns (B, K, held + T, D), then forgets all but the last `window` - 1."""
        self._seen += keys.shape[2]
        keys, values = super().append(keys, values)
        surplus = self.held - (self.window - 1)
        if surplus > 0:
            # Copies: a view would keep the memory of what it leaves out.
            self._kept = keys[:, :, surplus:].clone(), values[:, :, surplus:].clone()
        return keys, values

    def crop(self, length: int) -> None:
        """See `Cache`; only as long as nothing has been forgotten, or to nothing."""
        assert 0 <= length <= self.length, f"cannot crop {self.length} tokens to {length}"
        if length not in (0, self._seen) and self.held < self._seen:
            raise UserError(
                f"length={length}: a sliding cache that has seen {self._seen} tokens and kept {self.held} cannot go "
                f"back; use KVCache"
            )
        if length < self._seen:
            super().crop(length)
            self._seen = length

    def _twin(self) -> SlidingCache:
        twin = SlidingCache(self.window)
        twin._seen = self._seen
        return twin


class StaticCache(KVCache):
    """Keys and values in memory that is reserved at the first call.

    For inference: every call writes in place, so that no gradient can pass.

    Args:
        capacity: most tokens.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self._length = 0

    @property
    def held(self) -> int:
        """See `KVCache`."""
        return self._length

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """See `KVCache`; returns views of the reserved memory, valid until the next call.

        Raises:
            UserError: more tokens than the capacity, or keys that want a gradient.
        """
        start, end = self._length, self._length + keys.shape[2]
        if end > self.capacity:
            raise UserError(f"cache of {end} tokens: its capacity is {self.capacity}; make it with a larger one")
        if torch.is_grad_enabled() and (keys.requires_grad or values.requires_grad):
            raise UserError("static cache: passes no gradients; call the model under torch.no_grad(), or use KVCache")
        if self._kept is None:
            shape = (*keys.shape[:2], self.capacity, keys.shape[3])
            self._kept = keys.new_empty(shape), values.new_empty((*shape[:3], values.shape[3]))
        for room, new in zip(self._kept, (keys, values), strict=True):
            room.narrow(2, start, new.shape[2]).copy_(new)  # half the calls into PyTorch of an assignment to a slice
        self._length = end
        return self.read()

    def read(self) -> tuple[Tensor, Tensor]:
        """See `KVCache`."""
        keys, values = super().read()
        return keys.narrow(2, 0, self._length), values.narrow(2, 0, self._length)

    def crop(self, length: int) -> None:
        """See `Cache`."""
        assert 0 <= length <= self.length, f"cannot crop {self.length} tokens to {length}"
        self._length = length

    def select(self, samples: Tensor) -> None:
        """See `Cache`; only what is held is copied."""
        if self._kept is not None:
            picked = [part.index_select(0, samples) for part in self.read()]
            if len(samples) != len(self._kept[0]):
                keys, values = (part.new_empty(*part.shape[:2], self.capacity, part.shape[3]) for part in picked)
                self._kept = keys, values
            for room, part in zip(self._kept, picked, strict=True):
                room[:, :, : self._length] = part

    def _twin(self) -> StaticCache:
        twin = StaticCache(self.capacity)
        twin._length = self._length
        return twin


@dataclass(frozen=True)
class DecoderCache(Cache):
    """What one block of an encoder-decoder's decoder keeps.

    Attributes:
        tokens: grows with every call.
        memory: filled by the first call and reused by the later ones.
    """

    tokens: KVCache = field(default_factory=KVCache)
    memory: KVCache = field(default_factory=KVCache)

    @property
    def length(self) -> int:
        """See `Cache`."""
        return self.tokens.length

    def crop(self, length: int) -> None:
        """See `Cache`; the memory stays whole."""
        self.tokens.crop(length)

    def select(self, samples: Tensor) -> None:
        """See `Cache`."""
        self.tokens.select(samples)
        self.memory.select(samples)

    def expand(self, copies: int) -> DecoderCache:
        """See `Cache`."""
        return DecoderCache(self.tokens.expand(copies), self.memory.expand(copies))

    def reserve(self, room: int) -> DecoderCache:
        """See `Cache`; the memory has its final size from the start."""
        return DecoderCache(self.tokens.reserve(room), self.memory)
