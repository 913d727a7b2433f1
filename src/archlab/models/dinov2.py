"""DINOv2 (arXiv 2304.07193) and its variant with registers (arXiv 2309.16588): a ViT for images of any size.

Shape legend: B samples, C channels, H x W pixels, h x w = N patches of an image, R registers, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab.config import Section, TransformerConfig
from archlab.errors import UserError
from archlab.layers.attention import Attention
from archlab.layers.block import SandwichBlock
from archlab.layers.embeddings import PatchEmbedding, patches_per_side
from archlab.layers.feedforward import MLP, GatedMLP
from archlab.layers.initialization import initialize
from archlab.layers.layer_scale import LayerScale
from archlab.rules import Count, Natural, Positive

_LAYER_SCALE = 1e-5  # at the start of training


@dataclass(frozen=True, kw_only=True)
class DINOv2Config(Section):
    """Shape of a DINOv2; the defaults are ViT-B/14."""

    image_size: Count = 518
    """Side of the images whose patches the table of positions holds."""
    patch_size: Count = 14
    channels: Count = 3
    transformer: TransformerConfig = field(
        default_factory=lambda: TransformerConfig(width=768, depth=12, heads=12, feed_forward=3072)
    )
    gated: bool = False
    """SwiGLU instead of an MLP: the giant model."""
    registers: Natural = 0
    """R, tokens without content that leave patches free of global information; the released models have 0 or 4."""
    norm_eps: Positive = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        patches_per_side(self.image_size, self.patch_size)

    @property
    def patches(self) -> int:
        """Patches in the table of positions."""
        return patches_per_side(self.image_size, self.patch_size) ** 2


class DINOv2(nn.Module):
    """Images to normalised states of the class token, of the registers and of every patch.

    Differs from the released code: images of another size than the table's get positions interpolated to their grid, as
    in `transformers`; the released code adds 0.1 to both sides of that grid before it computes the scale.

    Args:
        config: shape of the model.

    Raises:
        UserError: the heads do not divide the width.
    """

    def __init__(self, config: DINOv2Config) -> None:
        super().__init__()
        self.config = config
        width = config.transformer.width
        # The models with registers were released with code that averages where it makes a table smaller.
        self.antialias = config.registers > 0
        self.patch_embedding = PatchEmbedding(config.channels, config.patch_size, width)
        self.mask_token = nn.Parameter(torch.empty(1, width))
        self.class_token = nn.Parameter(torch.empty(1, 1, width))
        self.registers = nn.Parameter(torch.empty(1, config.registers, width)) if config.registers else None
        self.positions = nn.Parameter(torch.empty(1 + config.patches, width))
        self.blocks = nn.ModuleList(_block(config) for _ in range(config.transformer.depth))
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)
        initialize(self, config.transformer.depth)
        for module in self.modules():
            if isinstance(module, LayerScale):
                nn.init.constant_(module.gain, _LAYER_SCALE)

    def patch_states(self, images: Tensor) -> Tensor:
        """See `models.protocols.VisionEncoder`."""
        return self(images)[:, 1 + self.config.registers :]  # (B, N, D)

    def forward(self, images: Tensor, masked: Tensor | None = None) -> Tensor:
        """Encode images.

        Args:
            images: (B, C, H, W); patches divide both sides.
            masked: True at patches that the mask token stands in for, (B, N); None: at none.

        Returns:
            (B, 1 + R + N, D).

        Raises:
            UserError: patches do not divide a side, or the images have another number of channels.
        """
        channels, height, width = images.shape[1:]
        if channels != self.config.channels:
            raise UserError(f"images of {channels} channels: this model reads {self.config.channels}")
        x = self.patch_embedding(images)  # (B, N, D)
        if masked is not None:
            x = torch.where(masked[:, :, None], self.mask_token, x)
        of_class, of_patches = self._positions(height // self.config.patch_size, width // self.config.patch_size)
        first = self.class_token + of_class  # (1, 1, D)
        if self.registers is not None:
            first = torch.cat([first, self.registers], 1)  # (1, 1 + R, D)
        x = torch.cat([first.expand(len(x), -1, -1), x + of_patches], 1)  # (B, 1 + R + N, D)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def _positions(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Of the class token, (1, D), and of a grid of patches, (h * w, D)."""
        of_class, of_patches = self.positions.split([1, self.config.patches])
        side = self.config.image_size // self.config.patch_size
        if (height, width) == (side, side):
            return of_class, of_patches
        table = of_patches.float().T.unflatten(1, (side, side))[None].contiguous()  # (1, D, side, side)
        table = F.interpolate(table, size=(height, width), mode="bicubic", antialias=self.antialias)  # (1, D, h, w)
        return of_class, table[0].flatten(1).T.to(of_patches.dtype)


def _block(config: DINOv2Config) -> SandwichBlock:
    """Block of a ViT with layer scale."""
    size = config.transformer
    return SandwichBlock(
        nn.LayerNorm(size.width, eps=config.norm_eps),
        Attention(size.width, size.heads, bias=True),
        LayerScale(size.width),
        nn.LayerNorm(size.width, eps=config.norm_eps),
        GatedMLP(size.width, size.feed_forward, bias=True) if config.gated else MLP(size.width, size.feed_forward),
        LayerScale(size.width),
    )
