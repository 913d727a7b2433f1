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
