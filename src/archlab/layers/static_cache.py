"""A cache in memory that is set aside once, for generation.

Shape legend: B samples, K key-value heads, T tokens, D width of a head, C capacity.
"""

from __future__ import annotations

from torch import Tensor

from archlab.layers.cache import KVCache


class StaticCache(KVCache):
    """Writes new tokens behind the last one instead of copying all that is kept; otherwise as `KVCache`.

    Not differentiable: the memory is written in place.

    Args:
        capacity: C, most tokens that are ever kept; the memory is taken when the first arrive.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self._length = 0

    @property
    def length(self) -> int:
        """See `KVCache.length`."""
        return self._length

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """See `KVCache.append`; the result is a view that the next calls extend."""
        start, end = self._length, self._length + keys.shape[2]
        assert end <= self.capacity, f"cannot keep {end} tokens: there is room for {self.capacity}"
        if self._kept is None:
            self._kept = self._room(keys), self._room(values)  # (B, K, C, D)
        self._kept[0][:, :, start:end] = keys
        self._kept[1][:, :, start:end] = values
        self._length = end
        return self.read()

    def read(self) -> tuple[Tensor, Tensor]:
        """See `KVCache.read`."""
        keys, values = super().read()
        return keys[:, :, : self._length], values[:, :, : self._length]

    def crop(self, length: int) -> None:
        """See `KVCache.crop`."""
        assert 0 <= length <= self._length, f"cannot crop {self._length} tokens to {length}"
        self._length = length

    def select(self, samples: Tensor) -> None:
        """See `KVCache.select`."""
        if self._kept is not None:
            keys, values = (part.index_select(0, samples) for part in self.read())
            if len(samples) != len(self._kept[0]):
                self._kept = self._room(keys), self._room(values)
            self._kept[0][:, :, : self._length] = keys
            self._kept[1][:, :, : self._length] = values

    def expand(self, copies: int) -> KVCache:
        """See `KVCache.expand`."""
        expanded = StaticCache(self.capacity)
        if self._kept is not None:
            keys, values = self.read()
            expanded.append(keys.repeat_interleave(copies, 0), values.repeat_interleave(copies, 0))
        return expanded

    def _room(self, like: Tensor) -> Tensor:
        return like.new_empty(*like.shape[:2], self.capacity, like.shape[3])
