"""Vision Transformer (arXiv 2010.11929): an image as a sequence of patches through a pre-norm encoder.

Shape legend: B samples, C channels, H x W pixels, N patches, n kept patches, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from archlab.config import Section, TransformerConfig
from archlab.errors import UserError
from archlab.layers.attention import Attention
from archlab.layers.block import Block
from archlab.layers.embeddings import PatchEmbedding, patches_per_side
from archlab.layers.feedforward import MLP
from archlab.layers.initialization import initialize
from archlab.layers.positions import sinusoidal_2d
from archlab.layers.stem import ConvolutionalStem
from archlab.rules import Count, Positive


@dataclass(frozen=True, kw_only=True)
class ViTConfig(Section):
    """Shape of a Vision Transformer."""

    image_size: Count = 64
    patch_size: Count = 8
    channels: Count = 3
    transformer: TransformerConfig = field(
        default_factory=lambda: TransformerConfig(width=192, depth=6, heads=6, feed_forward=768)
    )
    stem: Literal["linear", "convolutional"] = "linear"
    """How patches are embedded: by one linear map each, or by residual convolutions over the image (`layers.stem`)."""
    class_token: bool = True
    """Put a learned token before the patches."""
    positions: Literal["learned", "sinusoidal"] = "learned"
    """"learned": one vector per patch and one for the class token; "sinusoidal": the fixed table of MAE."""
    norm_eps: Positive = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        patches_per_side(self.image_size, self.patch_size)

    @property
    def grid(self) -> tuple[int, int]:
        """Patches per column and per row."""
        side = patches_per_side(self.image_size, self.patch_size)
        return side, side

    @property
    def patches(self) -> int:
        """N."""
        return self.grid[0] * self.grid[1]


def vit_block(config: TransformerConfig, norm_eps: float) -> Block:
    """Block of a ViT (section 3.1): LayerNorm, attention with biases, MLP with the exact GELU."""
    return Block(
        nn.LayerNorm(config.width, eps=norm_eps),
        Attention(config.width, config.heads, bias=True),
        nn.LayerNorm(config.width, eps=norm_eps),
        MLP(config.width, config.feed_forward),
    )


class ViT(nn.Module):
    """Images to one normalised state per patch, and one for the class token if there is one.

    Differs from the paper: no dropout, initialised by `layers.initialization`, and convolutions may embed the patches.

    Args:
        config: shape of the model.
    """

    positions: Tensor

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        size = config.transformer
        embedding = PatchEmbedding if config.stem == "linear" else ConvolutionalStem
        self.patch_embedding = embedding(config.channels, config.patch_size, size.width)
        extra = int(config.class_token)
        self.class_token = nn.Parameter(torch.empty(1, 1, size.width)) if config.class_token else None
        if config.positions == "learned":
            self.positions = nn.Parameter(torch.empty(extra + config.patches, size.width))
        else:
            table = sinusoidal_2d(*config.grid, size.width)  # (N, D)
            # The class token stands nowhere: its position is zero.
            table = torch.cat([table.new_zeros(extra, size.width), table])  # (N or 1 + N, D)
            self.register_buffer("positions", table, persistent=False)
        self.blocks = nn.ModuleList(vit_block(size, config.norm_eps) for _ in range(size.depth))
        self.norm = nn.LayerNorm(size.width, eps=config.norm_eps)
        initialize(self, size.depth)

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Encode images, or only some of their patches.

        Args:
            images: (B, C, H, W).
            keep: indices of the patches to encode, (B, n); the others are never computed. None encodes all. Needs a
                linear stem: convolutions would have seen the others.

        Returns:
            (B, N or n, D), after the class token's state if there is one. Patches come row by row, or in the order of
            `keep`.

        Raises:
            UserError: the images have another shape than the config says.
        """
        expected = (self.config.channels, self.config.image_size, self.config.image_size)
        if images.shape[1:] != expected:
            raise UserError(f"images of shape {tuple(images.shape[1:])}: this model reads {expected}; resize them")
        of_class, of_patches = self.positions.split([int(self.config.class_token), self.config.patches])
        if keep is None:
            x = self.patch_embedding(images) + of_patches  # (B, N, D)
        else:
            x = self.patch_embedding(images, keep) + of_patches[keep]  # (B, n, D)
        if self.class_token is not None:
            x = torch.cat([(self.class_token + of_class).expand(len(x), -1, -1), x], 1)  # (B, 1 + N, D)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def patch_states(self, images: Tensor) -> Tensor:
        """See `models.protocols.VisionEncoder`."""
        return self(images)[:, int(self.config.class_token) :]  # (B, N, D)
