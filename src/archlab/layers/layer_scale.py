"""A learned gain per feature on what a part of a block adds to the residual stream (CaiT, arXiv 2103.17239, section 2).

It stands in a `layers.block.SandwichBlock` after attention and after feed-forward.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LayerScale(nn.Module):
    """x * gain over the last axis.

    Args:
        width: of the last axis.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Scale (..., width)."""
        return x * self.gain
