"""Many tokens to one, or to fewer.

Shape legend: B samples, T tokens, D features, h x w patches in row-major order, m patches merged per side.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from archlab.errors import UserError
from archlab.layers import masks
from archlab.layers.attention import Attention
from archlab.layers.initialization import initialize


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over real tokens.

    Args:
        x: (B, T, D).
        mask: True at real tokens, (B, T).

    Returns:
        (B, D); zeros where a sample has no real token.
    """
    count = mask.sum(1, keepdim=True).clamp(min=1)  # (B, 1)
    return x.masked_fill(~mask[:, :, None], 0).sum(1) / count


class AttentionPooling(nn.Module):
    """One learned query that attends to every real token (Set Transformer, arXiv 1810.00825, section 3.2).

    Differs from the paper: no feed-forward and no normalisation around the attention.

    Args:
        width: D.
        heads: of the attention.
        bias: whether its projections have one.
    """

    def __init__(self, width: int, heads: int, *, bias: bool = False) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(1, 1, width))
        self.attention = Attention(width, heads, bias=bias)
        initialize(self, depth=1)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool (B, T, D), of which `mask` (B, T) is True at real tokens, to (B, D)."""
        query = self.query.expand(len(x), -1, -1)
        attend = None if mask is None else masks.padding(mask)
        return self.attention(query, memory=x, mask=attend)[:, 0]


def merge_patches(x: Tensor, grid: tuple[int, int], merge: int) -> Tensor:
    """Concatenate the features of each square of m x m neighbouring patches (Swin, arXiv 2103.14030, section 3.1).

    Args:
        x: (B, h * w, D).
        grid: h and w.
        merge: m.

    Returns:
        (B, h/m * w/m, m * m * D), row by row; within a square row by row as well.

    Raises:
        UserError: m does not divide both sides.
    """
    height, width = grid
    if height % merge or width % merge:
        raise UserError(f"merge={merge}: must divide both sides of the grid of {height} x {width} patches")
    squares = x.unflatten(1, (height // merge, merge, width // merge, merge))  # (B, h/m, m, w/m, m, D)
    return squares.transpose(2, 3).flatten(3).flatten(1, 2)
