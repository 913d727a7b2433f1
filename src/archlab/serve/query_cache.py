"""Embeddings of texts that were asked for lately: people search for the same things."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from cachetools import LRUCache


class QueryCache:
    """Text -> vector; the least recently used goes first. For one thread.

    Args:
        size: most texts that are kept; 0 keeps none.

    Attributes:
        hits, misses: texts asked for that were there, and that were not.
    """

    def __init__(self, size: int) -> None:
        self._kept: LRUCache[str, np.ndarray] = LRUCache(size)
        self.hits = self.misses = 0

    def __len__(self) -> int:
        return len(self._kept)

    def look_up(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """The vectors of those texts that are kept."""
        found = {text: self._kept[text] for text in dict.fromkeys(texts) if text in self._kept}
        hits = sum(text in found for text in texts)
        self.hits, self.misses = self.hits + hits, self.misses + len(texts) - hits
        return found

    def keep(self, vectors: Mapping[str, np.ndarray]) -> None:
        """Keep vectors; nobody may write to them any more."""
        if self._kept.maxsize:
            for text, vector in vectors.items():
                vector.setflags(write=False)
                self._kept[text] = vector
