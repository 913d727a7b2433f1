"""Where a token is: rotary embeddings for attention and sinusoidal tables to add to embeddings.

A learned table is a plain parameter of the model that owns it.

Shape legend: B samples, H heads, T tokens, D width of a head, W width of a model.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from archlab.errors import UserError
from archlab.layers.rotary_scaling import RotaryScaling


class RotaryLayout(enum.Enum):
    """Which two of a head's D features are turned together. Checkpoints are tied to one layout."""

    HALF_SPLIT = "half-split"
    """Feature i with feature i + D/2 (GPT-NeoX, LLaMA in `transformers`)."""
    INTERLEAVED = "interleaved"
    """Feature 2i with feature 2i + 1 (RoFormer, LLaMA by Meta)."""


@dataclass(frozen=True)
class Rotation:
    """The turn at given positions, made once and shared by every layer.

    Attributes:
        cos: (B, 1, T, D), one entry per feature.
        sin: (B, 1, T, D), negative at the first feature of each pair.
        layout: how features are paired.
    """

    cos: Tensor
    sin: Tensor
    layout: RotaryLayout

    def __call__(self, x: Tensor) -> Tensor:
        """Turn queries or keys (B, H, T, D)."""
        if self.layout is RotaryLayout.HALF_SPLIT:
            partner = x.roll(x.shape[-1] // 2, -1)
        else:
            partner = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
        return torch.addcmul(x * self.cos.to(x.dtype), partner, self.sin.to(x.dtype))


class RotaryEmbedding(nn.Module):
    """Rotary position embedding (RoFormer, arXiv 2104.09864, section 3.2).

    Pair i is turned by position * base^(-2i / D), so that a query-key product depends on relative positions only.

    Args:
        head_width: D, even.
        base: the longest wavelength is about 2 pi * base positions.
        layout: how features are paired.
        scaling: changes the frequencies for contexts longer than those of pretraining.
    """

    frequencies: Tensor

    def __init__(
        self,
        head_width: int,
        *,
        base: float = 10000.0,
        layout: RotaryLayout = RotaryLayout.HALF_SPLIT,
        scaling: RotaryScaling | None = None,
    ) -> None:
        super().__init__()
        if head_width % 2:
            raise UserError(f"head_width={head_width}: must be even, rotary positions turn pairs of features")
        self.layout = layout
        frequencies = base ** (-torch.arange(0, head_width, 2, dtype=torch.float32) / head_width)  # (D / 2)
        if scaling is not None:
            frequencies = scaling.scale(frequencies)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, positions: Tensor) -> Rotation:
        """The rotation at absolute positions (B, T)."""
        angles = positions[:, None, :, None].float() * self.frequencies  # (B, 1, T, D / 2)
        cos, sin = angles.cos(), angles.sin()
        if self.layout is RotaryLayout.HALF_SPLIT:
            return Rotation(torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1), self.layout)
        return Rotation(torch.stack([cos, cos], -1).flatten(-2), torch.stack([-sin, sin], -1).flatten(-2), self.layout)


def sinusoidal(positions: Tensor, width: int, *, base: float = 10000.0) -> Tensor:
    """Fixed table of sines, then cosines, of each position ("Attention is all you need", section 3.5).

    Differs from the paper: sines and cosines are concatenated instead of interleaved, as in MAE's code; a permutation
    of features that the next linear layer absorbs.

    Args:
        positions: (T,).
        width: W, even.

    Returns:
        (T, W), float32.
    """
    if width % 2:
        raise UserError(f"width={width}: must be even, half of the features are sines and half are cosines")
    frequencies = base ** (-torch.arange(width // 2, dtype=torch.float64) / (width // 2))
    angles = positions.double()[:, None] * frequencies  # (T, W / 2)
    return torch.cat([angles.sin(), angles.cos()], -1).float()


def sinusoidal_2d(height: int, width: int, features: int) -> Tensor:
    """Fixed table for a grid of patches in row-major order: half of the features for the column, half for the row.

    The column comes first, as in the released code and checkpoints of MAE (arXiv 2111.06377).

    Args:
        height, width: patches per column and per row.
        features: W, a multiple of 4.

    Returns:
        (height * width, W), float32.
    """
    if features % 4:
        raise UserError(f"features={features}: must be a multiple of 4, sines and cosines of rows and of columns")
    rows = sinusoidal(torch.arange(height), features // 2).repeat_interleave(width, 0)
    columns = sinusoidal(torch.arange(width), features // 2).repeat(height, 1)
    return torch.cat([columns, rows], -1)
