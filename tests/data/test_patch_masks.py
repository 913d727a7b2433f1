from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from archlab.data.patch_masks import (
    ASPECT,
    CONTEXT_SCALE,
    LONG_RANGE,
    SHORT_RANGE,
    TARGET_SCALE,
    TARGETS,
    PatchMasks,
    image_masks,
    tube_masks,
)
from archlab.errors import UserError

GRIDS = st.tuples(st.integers(4, 16), st.integers(4, 16))  # most of them are not square
WAYS: Any = pytest.mark.parametrize("way", [SHORT_RANGE, LONG_RANGE], ids=["short range", "long range"])


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def seen(places: Tensor, patches: int) -> Tensor:
    """Indices (..., n) as a mask (..., patches)."""
    return torch.zeros(*places.shape[:-1], patches, dtype=torch.bool).scatter(-1, places, True)


def check(masks: PatchMasks, samples: int, patches: int) -> None:
    """What holds for every mask: sorted, in range, context and targets disjoint, a context that is no token one."""
    assert masks.context.shape[0] == masks.targets.shape[0] == samples
    for places in (masks.context, masks.targets):
        assert places.dtype == torch.int64
        assert (places.diff(dim=-1) > 0).all()
        assert places.min() >= 0
        assert places.max() < patches
    assert not (seen(masks.context, patches) & seen(masks.targets, patches).any(1)).any()


@given(st.integers(1, 4), GRIDS, st.integers(0, 10**6))
def test_blocks_are_sorted_in_range_disjoint_and_of_one_size_within_a_batch(
    samples: int, grid: tuple[int, int], seed: int
) -> None:
    masks, patches = image_masks(samples, grid, rng(seed)), grid[0] * grid[1]
    check(masks, samples, patches)
    assert masks.targets.shape[1] == TARGETS
    assert masks.context.shape[1] >= 0.05 * patches
    again = image_masks(samples, grid, rng(seed))
    assert torch.equal(again.context, masks.context)
    assert torch.equal(again.targets, masks.targets)


@given(GRIDS, st.integers(0, 10**6))
def test_every_target_is_a_rectangle_and_the_context_is_one_without_them(grid: tuple[int, int], seed: int) -> None:
    """A batch of one is not cut: nothing is missing between the union of the parts and the blocks."""
    masks, patches = image_masks(1, grid, rng(seed)), grid[0] * grid[1]
    targets = seen(masks.targets[0], patches).view(TARGETS, *grid)
    for target in targets:
        assert target.sum() == rectangle_around(target).sum()
    union, context = targets.any(0), seen(masks.context[0], patches).view(grid)
    around = rectangle_around(context)
    assert torch.equal(context, around & ~union)


def rectangle_around(mask: Tensor) -> Tensor:
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    block = torch.zeros_like(mask)
    block[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    return block


@given(st.integers(1, 3), GRIDS, st.integers(1, 4), st.sampled_from([SHORT_RANGE, LONG_RANGE]), st.integers(0, 10**6))
def test_tubes_are_sorted_in_range_disjoint_and_the_same_in_every_frame(
    samples: int, grid: tuple[int, int], tubelets: int, way: tuple[int, float], seed: int
) -> None:
    masks, frame = tube_masks(samples, grid, tubelets, way, rng(seed)), grid[0] * grid[1]
    check(masks, samples, tubelets * frame)
    assert masks.targets.shape[1] == 1
    for places in (masks.context, masks.targets[:, 0]):
        by_frame = seen(places, tubelets * frame).view(samples, tubelets, frame)
        assert torch.equal(by_frame, by_frame[:, :1].expand_as(by_frame))
    if samples == 1:  # nothing is cut: what is not hidden is seen
        assert (seen(masks.context, tubelets * frame) | seen(masks.targets[:, 0], tubelets * frame)).all()


@given(st.integers(2, 5), st.integers(0, 10**6))
def test_a_batch_is_cut_to_its_smallest_sample_and_no_further(samples: int, seed: int) -> None:
    """Samples are drawn in order, so that those of a batch are the same as of a smaller one that is cut less."""
    masks = tube_masks(samples, (8, 8), 1, SHORT_RANGE, rng(seed))
    context, hidden = seen(masks.context, 64), seen(masks.targets[:, 0], 64)
    assert (context.sum(1) == masks.context.shape[1]).all()
    whole = (context | hidden).sum(1)
    # Either side is whole in some sample: the smallest of each is.
    assert whole.max() <= 64
    assert masks.context.shape[1] + masks.targets.shape[2] <= 64


def test_what_is_cut_is_no_special_place() -> None:
    """The released code cuts the end, so that bottom rows would be seen less often than top rows."""
    masks = [image_masks(16, (8, 8), rng(seed)) for seed in range(60)]
    often = torch.stack([seen(one.context, 64).float().mean(0) for one in masks]).mean(0).view(8, 8)
    assert (often - often.flip(0)).abs().max() < 0.12
    assert (often - often.flip(1)).abs().max() < 0.12


def sizes_of(grid: tuple[int, int], draws: int) -> np.ndarray:
    """Rows and columns of the target blocks of many batches."""
    sizes = []
    for seed in range(draws):
        block = seen(image_masks(1, grid, rng(seed)).targets[0, 0], grid[0] * grid[1]).view(grid)
        sizes.append((int(block.any(1).sum()), int(block.any(0).sum())))
    return np.array(sizes)


def test_target_blocks_have_the_published_scale_and_aspect() -> None:
    """On a fine grid rounding plays no part: .15 to .2 of the picture, .75 to 1.5 times as high as wide."""
    grid = (100, 100)
    rows, columns = sizes_of(grid, 150).T
    scale, aspect = rows * columns / 10_000, rows / columns
    for found, (low, high) in ((scale, TARGET_SCALE), (aspect, ASPECT)):
        slack = 0.02 * high
        assert low - slack <= found.min() <= low + 0.1 * (high - low) + slack
        assert high - 0.1 * (high - low) - slack <= found.max() <= high + slack
        deviation = (high - low) / math.sqrt(12 * len(found))  # of the mean of a uniform variable
        assert abs(found.mean() - (low + high) / 2) < 4 * deviation + slack / 2
    assert (TARGET_SCALE, ASPECT, CONTEXT_SCALE, TARGETS) == ((0.15, 0.2), (0.75, 1.5), (0.85, 1.0), 4)
    assert abs(np.corrcoef(scale, aspect)[0, 1]) < 0.3  # the released code draws both from one number


def test_the_context_is_the_published_share_less_the_overlap() -> None:
    """Of 14 x 14 patches, four targets and the borders leave the context about as much as an independent loop says."""
    grid, found, expected = (14, 14), [], []
    for seed in range(200):
        found.append(image_masks(1, grid, rng(seed)).context.shape[1])
    draw = rng(1)
    for _ in range(2000):
        free = np.zeros(grid, dtype=bool)
        side = min(14, round(math.sqrt(draw.uniform(0.85, 1.0) * 196)))
        top, left = draw.integers(15 - side, size=2)
        free[top : top + side, left : left + side] = True
        area, ratio = draw.uniform(0.15, 0.2) * 196, draw.uniform(0.75, 1.5)
        height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        for _ in range(4):
            y, x = draw.integers(15 - height), draw.integers(15 - width)
            free[y : y + height, x : x + width] = False
        expected.append(free.sum())
    assert abs(np.mean(found) - np.mean(expected)) < 4 * np.std(expected) / math.sqrt(200)


@WAYS
def test_tubes_hide_the_published_share(way: tuple[int, float]) -> None:
    """8 blocks of 15 % and 2 of 70 %, of .75 to 1.5 times as high as wide: as much as an independent loop hides."""
    hidden = [tube_masks(1, (16, 16), 1, way, rng(seed)).targets.shape[2] / 256 for seed in range(200)]
    assert (SHORT_RANGE, LONG_RANGE) == ((8, 0.15), (2, 0.7))
    (blocks, share), draw, expected = way, rng(1), []
    while len(expected) < 2000:
        ratio, covered = draw.uniform(0.75, 1.5), np.zeros((16, 16), dtype=bool)
        height, width = (min(16, round(16 * math.sqrt(share * side))) for side in (ratio, 1 / ratio))
        for _ in range(blocks):
            y, x = draw.integers(17 - height), draw.integers(17 - width)
            covered[y : y + height, x : x + width] = True
        if (~covered).sum() >= 13:  # a twentieth is seen
            expected.append(covered.mean())
    assert abs(np.mean(hidden) - np.mean(expected)) < 4 * np.std(expected) / math.sqrt(200)
    assert share <= np.mean(hidden) < 1


def test_a_grid_that_leaves_no_context_is_refused() -> None:
    for draw in (lambda: tube_masks(2, (1, 1), 1, LONG_RANGE, rng(0)), lambda: image_masks(2, (1, 1), rng(0))):
        with pytest.raises(UserError, match=r"grid of 1 x 1 patches: .* no context of 1 patches; use smaller patches"):
            draw()
