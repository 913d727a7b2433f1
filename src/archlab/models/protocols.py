"""What code that uses models may rely on, whatever the family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from archlab.layers.cache import KVCache


class Decoder(Protocol):
    """A model that continues token sequences.

    Attributes:
        blocks: the layers that read and write the residual stream, in order; hidden states are read there by hooks.
    """

    blocks: nn.ModuleList

    def __call__(self, tokens: Tensor, *, mask: Tensor | None = None, cache: Sequence[KVCache] | None = None) -> Tensor:
        """Logits of the next token after each token.

        Args:
            tokens: ids (B, T), those after the ones in the cache.
            mask: True at real tokens, those in the cache included, (B, cached + T); None: all are real.
            cache: from `new_cache`, extended by this call.

        Returns:
            (B, T, V); undefined at padding.

        Raises:
            UserError: there are more tokens than the model reads, or the mask has another shape.
        """
        ...

    def new_cache(self) -> list[KVCache]:
        """Empty caches for one batch of sequences, one per layer."""
        ...
