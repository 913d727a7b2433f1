"""What code that uses models may rely on, whatever the family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from archlab.layers.cache import DecoderCache, KVCache


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


class Encoder(Protocol):
    """A model that reads whole token sequences in both directions.

    Attributes:
        blocks: as of a `Decoder`.
    """

    blocks: nn.ModuleList

    def __call__(self, tokens: Tensor, *, mask: Tensor | None = None, token_types: Tensor | None = None) -> Tensor:
        """A state for each token.

        Args:
            tokens: ids (B, T).
            mask: True at real tokens, (B, T); None: all are real.
            token_types: (B, T); None: all are of the first type.

        Returns:
            (B, T, W); undefined at padding.

        Raises:
            UserError: there are more tokens than the model reads, or the mask has another shape.
        """
        ...

    def pool(self, states: Tensor, mask: Tensor | None = None) -> Tensor:
        """One state (B, W) of the sequence from those of its tokens, (B, T, W), made with this mask."""
        ...


class EncoderDecoder(Protocol):
    """A model that reads one token sequence, the source, and continues another, the target."""

    def __call__(
        self, source: Tensor, target: Tensor, *, source_mask: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Logits of the next token after each target token: `encode`, then `decode`.

        Args:
            source: ids (B, S).
            target: ids (B, T), with the token that starts a target in front.
            source_mask, mask: True at real tokens of source and target, (B, S) and (B, T); None: all are real.

        Returns:
            (B, T, V); undefined at padding.

        Raises:
            UserError: there are more tokens than the model reads, or a mask has another shape.
        """
        ...

    def encode(self, source: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """States (B, S, W) of the source (B, S), whose real tokens are True in `mask` (B, S)."""
        ...

    def decode(
        self,
        target: Tensor,
        memory: Tensor,
        *,
        mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        cache: Sequence[DecoderCache] | None = None,
    ) -> Tensor:
        """Logits of the next token after each target token.

        Args:
            target: ids (B, T), those after the ones in the cache.
            memory: from `encode`, (B, S, W); the same in every call with one cache.
            mask: True at real target tokens, those in the cache included, (B, cached + T); None: all are real.
            memory_mask: the mask that `encode` had, (B, S).
            cache: from `new_cache`, extended by this call.

        Returns:
            (B, T, V); undefined at padding.
        """
        ...

    def new_cache(self) -> list[DecoderCache]:
        """Empty caches for one batch of sequences, one per layer of the decoder."""
        ...
