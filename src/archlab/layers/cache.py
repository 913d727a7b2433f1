"""Keys and values of the tokens that an attention layer has seen, passed in by the caller.

Shape legend: B samples, K key-value heads, T tokens, D width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, cat


class KVCache:
    """Grows with every call of its layer. One object serves one layer and one batch of sequences.

    Differentiable: gradients reach the keys and values that were appended.
    """

    def __init__(self) -> None:
        self._kept: tuple[Tensor, Tensor] | None = None

    @property
    def length(self) -> int:
        """Number of tokens kept, padding included."""
        return 0 if self._kept is None else self._kept[0].shape[2]

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add keys and values (B, K, T, D), already turned to their positions; returns all that is kept."""
        if self._kept is not None:
            keys, values = cat([self._kept[0], keys], 2), cat([self._kept[1], values], 2)
        self._kept = keys, values
        return keys, values

    def read(self) -> tuple[Tensor, Tensor]:
        """All keys and values, (B, K, length, D) each."""
        assert self._kept is not None, "nothing has been appended yet"
        return self._kept

    def crop(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        assert 0 <= length <= self.length, f"cannot crop {self.length} tokens to {length}"
        if self._kept is not None:
            keys, values = self._kept
            self._kept = keys[:, :, :length], values[:, :, :length]

    def select(self, samples: Tensor) -> None:
        """Keep the samples with these indices (N), in this order; one may be named several times."""
        if self._kept is not None:
            keys, values = self._kept
            self._kept = keys.index_select(0, samples), values.index_select(0, samples)

    def expand(self, copies: int) -> KVCache:
        """A new cache with every sample repeated `copies` times in a row, (B * copies, K, T, D).

        The candidates that continue one prefix share its computation; the original is left as it is.
        """
        expanded = KVCache()
        if self._kept is not None:
            keys, values = self._kept
            expanded._kept = keys.repeat_interleave(copies, 0), values.repeat_interleave(copies, 0)
        return expanded


@dataclass(frozen=True)
class DecoderCache:
    """What one block of an encoder-decoder's decoder keeps.

    Attributes:
        tokens: grows with every call.
        memory: filled by the first call and reused by the later ones.
    """

    tokens: KVCache = field(default_factory=KVCache)
    memory: KVCache = field(default_factory=KVCache)
