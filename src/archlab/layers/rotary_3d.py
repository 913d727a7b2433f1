"""Rotary positions in a clip: frame, row and column (V-JEPA 2, arXiv 2506.09985, section 2.1).

Shape legend: B samples, T tokens, h x w patches per frame, D width of a head, S = 2 * (D // 6) features per axis.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab.errors import UserError
from archlab.layers.positions import RotaryLayout, Rotation


class Rotary3D(nn.Module):
    """The first S features of a head turn with the frame, the next with the row, the next with the column.

    Neighbouring features form a pair; what D leaves beyond 3 S is not turned.

    Differs from a rotation: in the released code, and so in the checkpoints, the frequencies are tiled (f0, f1, ...,
    f0, f1, ...) over pairs of neighbours, which need (f0, f0, f1, f1, ...). The two features of a pair then have two
    angles, and products of queries and keys do not depend on relative positions alone.

    Args:
        head_width: D.
        grid: h and w.
        base: the longest wavelength is about 2 pi * base positions.
        tiled: as released; False makes it the rotation that was meant.

    Raises:
        UserError: there is no pair of features for each axis.
    """

    def __init__(self, head_width: int, grid: tuple[int, int], *, base: float = 10000.0, tiled: bool = True) -> None:
        super().__init__()
        if head_width < 6:
            raise UserError(f"head_width={head_width}: must be at least 6, a pair for frame, row and column each")
        self.head_width = head_width
        self.grid = grid
        self.base = base
        self.tiled = tiled

    def forward(self, indices: Tensor) -> Rotation:
        """The turn of tokens (B, T), counted frame by frame and row by row."""
        height, width = self.grid
        places = torch.stack(
            [indices // (height * width), indices // width % height, indices % width], -1
        )  # (B, T, 3), frame, row, column
        pairs = self.head_width // 6
        # Made here and not kept as a buffer, which a model in half precision would round.
        frequencies = self.base ** (-torch.arange(pairs, device=indices.device) / pairs)  # (S / 2)
        angles = places[..., None] * frequencies  # (B, T, 3, S / 2)
        angles = torch.cat([angles, angles], -1) if self.tiled else angles.repeat_interleave(2, -1)  # (B, T, 3, S)
        sign = angles.new_tensor([-1.0, 1.0]).repeat(pairs)  # of the partner's share
        rest = (0, self.head_width - 3 * len(sign))
        cos = F.pad(angles.cos().flatten(-2), rest, value=1.0)  # (B, T, D)
        sin = F.pad((angles.sin() * sign).flatten(-2), rest)
        return Rotation(cos[:, None], sin[:, None], RotaryLayout.INTERLEAVED)
