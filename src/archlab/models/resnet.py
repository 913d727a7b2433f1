"""A small residual network (arXiv 1512.03385) for images of about 64 pixels: what convolutions reach end to end.

Shape legend: B samples, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

_WIDTHS = (32, 64, 128, 256)  # channels of each block


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions around which the input is added; the first may halve the resolution."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(inputs, outputs, 3, stride)
        self.second = _convolution(outputs, outputs, 3, 1)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else _convolution(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, outputs, H / stride, W / stride)."""
        return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))


class ResNet(nn.Module):
    """A stem, residual blocks of which each but the first halves the resolution, and a classifier."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = _convolution(3, _WIDTHS[0], 3, 2)
        self.blocks = nn.Sequential(
            ResidualBlock(_WIDTHS[0], _WIDTHS[0], 1),
            *(ResidualBlock(inputs, outputs, 2) for inputs, outputs in pairwise(_WIDTHS)),
        )
        self.head = nn.Linear(_WIDTHS[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """RGB images of roughly unit variance (B, 3, H, W) to logits (B, K)."""
        features: Tensor = self.blocks(torch.relu(self.stem(images)))
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


def _convolution(inputs: int, outputs: int, size: int, stride: int) -> nn.Sequential:
    """Without activation: a block's second one gets it after the addition."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False), nn.BatchNorm2d(outputs)
    )
