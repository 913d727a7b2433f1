"""What models of images and texts (CLIP, SigLIP) share: the shapes of their towers, the block and the text tower.

Shape legend: B samples, T tokens, C channels, H x W pixels, N patches, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from archlab.config import Section, TransformerConfig
from archlab.errors import UserError
from archlab.layers import masks
from archlab.layers.attention import Attention
from archlab.layers.block import Block
from archlab.layers.feedforward import MLP
from archlab.layers.initialization import initialize
from archlab.rules import Count, Positive


@dataclass(frozen=True, kw_only=True)
class TextTowerConfig(Section):
    """Shape of a text tower."""

    vocab_size: Count
    context: Count
    """Most tokens of a text: the positions that have a vector."""
    transformer: TransformerConfig
    norm_eps: Positive


@dataclass(frozen=True, kw_only=True)
class ImageTowerConfig(Section):
    """Shape of an image tower."""

    image_size: Count
    patch_size: Count
    channels: Count = 3
    transformer: TransformerConfig
    norm_eps: Positive

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patch_size > self.image_size:
            raise UserError(f"patch_size={self.patch_size}: must be at most image_size={self.image_size}")

    @property
    def patches(self) -> int:
        """N; pixels beyond the last whole patch are not read."""
        return (self.image_size // self.patch_size) ** 2

    def whole_patches(self, images: Tensor) -> Tensor:
        """Images without the pixels beyond the last whole patch, as a convolution leaves them out.

        Raises:
            UserError: the images have another shape than the config says.
        """
        expected = (self.channels, self.image_size, self.image_size)
        if images.shape[1:] != expected:
            raise UserError(f"images of shape {tuple(images.shape[1:])}: this model reads {expected}; resize them")
        side = self.image_size // self.patch_size * self.patch_size
        return images[:, :, :side, :side]


def tower_block(
    config: TransformerConfig, norm_eps: float, activation: Literal["gelu", "gelu-tanh", "gelu-quick"]
) -> Block:
    """Block of a tower: LayerNorm before each part, biases everywhere."""
    return Block(
        nn.LayerNorm(config.width, eps=norm_eps),
        Attention(config.width, config.heads, bias=True),
        nn.LayerNorm(config.width, eps=norm_eps),
        MLP(config.width, config.feed_forward, activation=activation),
    )


class TextTower(nn.Module):
    """Texts to one normalised state per token.

    Args:
        config: shape of the tower.
        activation: of the feed-forward layers.
        causal: whether a token sees only itself and earlier ones.
    """

    def __init__(
        self, config: TextTowerConfig, *, activation: Literal["gelu", "gelu-tanh", "gelu-quick"], causal: bool
    ) -> None:
        super().__init__()
        size = config.transformer
        self.context = config.context
        self.causal = causal
        self.token_embedding = nn.Embedding(config.vocab_size, size.width)
        self.positions = nn.Parameter(torch.empty(config.context, size.width))
        self.blocks = nn.ModuleList(tower_block(size, config.norm_eps, activation) for _ in range(size.depth))
        self.norm = nn.LayerNorm(size.width, eps=config.norm_eps)
        initialize(self, size.depth)

    def forward(self, tokens: Tensor) -> Tensor:
        """States (B, T, D) of texts (B, T); padding is read as any token.

        Raises:
            UserError: the texts are longer than the tower reads.
        """
        length = tokens.shape[1]
        if length > self.context:
            raise UserError(f"text of {length} tokens: this model reads at most {self.context}; shorten it")
        mask = None
        if self.causal:
            positions = torch.arange(length, device=tokens.device)[None]  # (1, T)
            mask = masks.causal(positions, positions)
        x = self.token_embedding(tokens) + self.positions[:length]  # (B, T, D)
        for block in self.blocks:
            x = block(x, mask=mask)
        return self.norm(x)
