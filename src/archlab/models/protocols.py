"""What code that uses models may rely on, whatever the family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from archlab.layers.cache import Cache, DecoderCache


class Decoder(Protocol):
    """A model that continues token sequences.

    Attributes:
        blocks: the layers that read and write the residual stream, in order; hidden states are read there by hooks.
    """

    blocks: nn.ModuleList

    def __call__(
        self, tokens: Tensor, *, mask: Tensor | None = None, cache: Sequence[Cache] | None = None, keep: int = 0
    ) -> Tensor:
        """Logits of the next token after each token.

        Args:
            tokens: ids (B, T), those after the ones in the cache.
            mask: True at real tokens, those in the cache included, (B, cached + T); None: all are real.
            cache: from this model's `new_cache`, extended by this call.
            keep: compute only the logits after the last so many tokens; 0: after all.

        Returns:
            (B, keep or T, V); undefined at padding.

        Raises:
            UserError: there are more tokens than the model reads, or the mask has another shape.
        """
        ...

    def new_cache(self) -> Sequence[Cache]:
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


class VisionEncoder(Protocol):
    """A model that describes an image patch by patch: every vision model here, whatever else it does."""

    def patch_states(self, images: Tensor) -> Tensor:
        """One vector per patch, and none for class tokens and registers.

        Args:
            images: (B, C, H, W); a model of video takes them for still clips, and reads clips (B, F, C, H, W) too.

        Returns:
            (B, N, D), the states after the last layer and the model's final norm; patches come frame by frame, those of
            a frame row by row.

        Raises:
            UserError: the model does not read images of this shape.
        """
        ...


class ImageTextModel(VisionEncoder, Protocol):
    """A model that puts images and texts into one space, where cosines measure how well they match."""

    def embed_images(self, images: Tensor) -> Tensor:
        """Vectors (B, E) of unit length of images (B, C, H, W)."""
        ...

    def embed_texts(self, tokens: Tensor) -> Tensor:
        """Vectors (B, E) of unit length of texts (B, T), ids padded on the right as in pretraining."""
        ...

    def logits(self, images: Tensor, texts: Tensor) -> Tensor:
        """Logits (M, N) of matches between the vectors of M images (M, E) and N texts (N, E)."""
        ...

    def __call__(self, images: Tensor, tokens: Tensor) -> Tensor:
        """Logits (M, N) of matches between images (M, C, H, W) and texts (N, T)."""
        ...
