"""Which patches a JEPA sees and which it must predict: blocks of an image (I-JEPA), tubes of a clip (V-JEPA).

Differs from the released code of both: a block's scale and aspect ratio are drawn independently, not from one random
number; and where samples of a batch must be cut to the smallest, patches are left out at random, not from the end,
where the bottom rows are.

Shape legend: B samples, f tubelets of h x w patches, n patches of the context, K sets of m patches to predict.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from archlab.errors import UserError

TARGETS = 4
"""Blocks that I-JEPA predicts, each by itself (arXiv 2301.08243, section 3)."""
TARGET_SCALE, CONTEXT_SCALE = (0.15, 0.2), (0.85, 1.0)
"""Smallest and largest share of the picture that a target and the context cover, the overlap not yet removed."""
ASPECT = (0.75, 1.5)
"""Height of a block over its width; I-JEPA's context is square."""
SHORT_RANGE, LONG_RANGE = (8, 0.15), (2, 0.7)
"""V-JEPA's two ways to hide (arXiv 2404.08471, section 3.2): number of blocks, and the share that each covers."""

_LEAST = 0.05  # of the patches must be left as context: 10 of 196, as in I-JEPA's code
_TRIES = 200

Grid = tuple[int, int]
Mask = NDArray[np.bool_]
Sizes = TypeVar("Sizes")


@dataclass(frozen=True)
class PatchMasks:
    """Indices of patches, ascending in each row, frame by frame and row by row.

    Attributes:
        context: what the encoder sees, (B, n).
        targets: what is predicted from it, (B, K, m), each of the K sets by itself. None of it is in the context.
    """

    context: Tensor
    targets: Tensor


def image_masks(samples: int, grid: Grid, generator: np.random.Generator) -> PatchMasks:
    """I-JEPA's multi-block masks: four target blocks, and one large block without what they cover as context.

    Sizes are drawn once for the batch, places for every sample.

    Raises:
        UserError: the grid is too small to leave a context.
    """

    def draw_sizes() -> tuple[Grid, Grid]:
        return (
            _size(grid, TARGET_SCALE, ASPECT, generator),
            _size(grid, CONTEXT_SCALE, (1.0, 1.0), generator),
        )

    def draw(sizes: tuple[Grid, Grid]) -> tuple[Mask, Mask]:
        targets = np.stack([_block(grid, sizes[0], generator) for _ in range(TARGETS)])  # (K, h, w)
        return _block(grid, sizes[1], generator) & ~targets.any(0), targets

    contexts, targets = zip(*_until_seen(samples, grid, draw_sizes, draw), strict=True)
    return PatchMasks(_indices(contexts, generator), torch.stack([_indices(one, generator) for one in targets]))


def tube_masks(
    samples: int, grid: Grid, tubelets: int, hidden: tuple[int, float], generator: np.random.Generator
) -> PatchMasks:
    """V-JEPA's tubes: the union of blocks is hidden in every frame, and all else is the context.

    Args:
        tubelets: f.
        hidden: number of blocks and the share of a frame that each covers, `SHORT_RANGE` or `LONG_RANGE`.

    Raises:
        UserError: the grid is too small to leave a context.
    """
    blocks, share = hidden

    def draw_size() -> Grid:
        return _size(grid, (share, share), ASPECT, generator)

    def draw(size: Grid) -> tuple[Mask, Mask]:
        target = np.any([_block(grid, size, generator) for _ in range(blocks)], axis=0)  # (h, w)
        return ~target, target

    context, target = (
        _through_time(_indices(masks, generator), grid, tubelets)
        for masks in zip(*_until_seen(samples, grid, draw_size, draw), strict=True)
    )
    return PatchMasks(context, target[:, None])


def _size(grid: Grid, scale: tuple[float, float], aspect: tuple[float, float], generator: np.random.Generator) -> Grid:
    """Rows and columns of a block."""
    area = generator.uniform(*scale) * grid[0] * grid[1]
    ratio = generator.uniform(*aspect)
    rows, columns = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
    return min(max(rows, 1), grid[0]), min(max(columns, 1), grid[1])


def _block(grid: Grid, size: Grid, generator: np.random.Generator) -> Mask:
    """A block of that size anywhere in the grid, (h, w)."""
    top, left = (generator.integers(whole - part + 1) for whole, part in zip(grid, size, strict=True))
    mask = np.zeros(grid, dtype=bool)
    mask[top : top + size[0], left : left + size[1]] = True
    return mask


def _until_seen(
    samples: int, grid: Grid, draw_sizes: Callable[[], Sizes], draw: Callable[[Sizes], tuple[Mask, Mask]]
) -> list[tuple[Mask, Mask]]:
    """Context and targets of every sample, drawn until enough of each picture is seen."""
    least = math.ceil(_LEAST * grid[0] * grid[1])
    for _ in range(_TRIES):
        sizes = draw_sizes()
        found: list[tuple[Mask, Mask]] = []
        for _ in range(_TRIES * samples):
            masks = draw(sizes)
            found += [masks] if masks[0].sum() >= least else []
            if len(found) == samples:
                return found
    raise UserError(
        f"grid of {grid[0]} x {grid[1]} patches: targets leave no context of {least} patches; use smaller patches"
    )


def _indices(masks: tuple[Mask, ...] | Mask, generator: np.random.Generator) -> Tensor:
    """The True places of each of B masks, cut to the number that all have: (B, n)."""
    places = [np.flatnonzero(mask) for mask in masks]
    count = min(map(len, places))
    cut = [np.sort(generator.permutation(one)[:count]) if len(one) > count else one for one in places]
    return torch.from_numpy(np.stack(cut))


def _through_time(places: Tensor, grid: Grid, tubelets: int) -> Tensor:
    """Places (B, n) of a frame in all tubelets of a clip, (B, f * n)."""
    starts = torch.arange(tubelets) * grid[0] * grid[1]
    return (starts[:, None] + places[:, None]).flatten(1)
