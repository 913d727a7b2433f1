"""Residual convolutions in the place of a ViT's patch embedding.

Shape legend: B samples, C channels, H x W pixels, p pixels per side of a patch, h x w = N patches, W width.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from archlab.errors import UserError


class ConvolutionalStem(nn.Module):
    """Early convolutions (arXiv 2106.14881): the resolution halves until one position is left per patch.

    A patch embedding must learn every shape at every place anew; convolutions learn it once. With few images that
    decides whether an encoder tells shapes apart at all.

    Differs from the paper: residual blocks (arXiv 1512.03385) between the strided convolutions, and the first halving
    rearranges pixels, which costs nothing.

    Args:
        channels: C.
        patch: p, a power of two and at least 4.
        width: W.

    Raises:
        UserError: the patch is not such a number, or the width cannot be halved at every stage.
    """

    def __init__(self, channels: int, patch: int, width: int) -> None:
        super().__init__()
        stages = patch.bit_length() - 1
        if patch < 4 or patch != 2**stages:
            raise UserError(f"patch_size={patch}: convolutions halve the resolution; choose 4, 8, 16 or 32")
        widths = [width // 2 ** (stages - 1 - stage) for stage in range(stages)]
        if width % 2 ** (stages - 1) or not widths[0]:
            raise UserError(
                f"width={width}: must be a multiple of {2 ** (stages - 1)}, it doubles at each of {stages} stages"
            )
        layers: list[nn.Module] = [nn.PixelUnshuffle(2), _convolution(4 * channels, widths[0])]
        for before, after in pairwise(widths):
            layers += [_convolution(before, after, stride=2), _Residual(after)]
        layers += [_Residual(width), nn.Conv2d(width, width, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to patch embeddings (B, N, W), row by row."""
        # Convolutions on a CPU are about twice as fast with the channels innermost.
        images = images.contiguous(memory_format=torch.channels_last)
        states: Tensor = self.layers(images)  # (B, W, h, w)
        return states.flatten(2).transpose(1, 2)


def _convolution(channels: int, width: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
    )


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _convolution(width, width)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.second(self.first(x))).relu()
