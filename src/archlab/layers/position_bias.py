"""Positions as additions to attention scores: learned per distance (T5), or falling with the distance (ALiBi).

Shape legend: B samples, H heads, Tq queries, Tk keys. A batch axis of 1 stands for every sample.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from archlab.errors import UserError


class RelativePositionBias(nn.Module):
    """One learned number per head and bucket of distances (T5, arXiv 1910.10683, section 2.1).

    Args:
        heads: H.
        buckets: rows of the table.
        farthest: distances from here on share the last bucket.
        bidirectional: half of the buckets are for keys after the query; otherwise those share the bucket of distance 0.

    Raises:
        UserError: there are too few buckets, or the farthest distance lies among those with a bucket of their own.
    """

    def __init__(self, heads: int, *, buckets: int, farthest: int, bidirectional: bool) -> None:
        super().__init__()
        exact = buckets // (4 if bidirectional else 2)
        if exact < 1:
            raise UserError(f"buckets={buckets}: must be at least {4 if bidirectional else 2}")
        if farthest <= exact:
            raise UserError(f"farthest={farthest}: must be more than {exact}, the distances with a bucket of their own")
        self.farthest = farthest
        self.bidirectional = bidirectional
        self.table = nn.Embedding(buckets, heads)

    def forward(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """Bias (B, H, Tq, Tk) of absolute positions (B, Tq) and (B, Tk)."""
        distance = key_positions[:, None, :] - query_positions[:, :, None]  # (B, Tq, Tk)
        return self.table(self.bucket(distance)).permute(0, 3, 1, 2)

    def bucket(self, distance: Tensor) -> Tensor:
        """The bucket of each distance, key less query.

        Half of a direction's buckets hold one distance each; the others grow by a constant factor up to `farthest`.
        """
        count = self.table.num_embeddings
        start: Tensor | int = 0
        if self.bidirectional:
            count //= 2
            start = (distance > 0).long() * count
            distance = distance.abs()
        else:
            distance = (-distance).clamp(min=0)
        exact = count // 2
        # In this order and in float32: at the borders of buckets, released weights rely on how it is rounded.
        growth = (distance.clamp(min=1).float() / exact).log() / math.log(self.farthest / exact) * (count - exact)
        wide = (exact + growth.long()).clamp(max=count - 1)
        return start + torch.where(distance < exact, distance, wide)


def alibi_slopes(heads: int) -> Tensor:
    """How steeply each head's scores fall, (H,) (ALiBi, arXiv 2108.12409, section 3).

    For a power of two, a geometric sequence that starts at its own ratio and ends at 2^-8. Otherwise those of the next
    lower power of two, then every second one of twice that power, as in the released code.
    """
    power = 2 ** int(math.log2(heads))
    slopes = [2 ** (-8 * (head + 1) / power) for head in range(power)]
    slopes += [2 ** (-4 * (2 * head + 1) / power) for head in range(heads - power)]
    return torch.tensor(slopes)


def alibi(query_positions: Tensor, key_positions: Tensor, slopes: Tensor) -> Tensor:
    """Scores fall in proportion to the distance; combine with a causal mask.

    Args:
        query_positions: absolute positions (B, Tq).
        key_positions: absolute positions (B, Tk).
        slopes: from `alibi_slopes`, (H,).

    Returns:
        (B, H, Tq, Tk), at most 0.
    """
    distance = (query_positions[:, None, :, None] - key_positions[:, None, None, :]).abs()  # (B, 1, Tq, Tk)
    return -slopes[:, None, None] * distance
