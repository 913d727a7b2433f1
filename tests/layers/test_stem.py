from __future__ import annotations

import pytest
import torch

from archlab.errors import UserError
from archlab.layers.stem import ConvolutionalStem


def stem(patch: int = 8, width: int = 16) -> ConvolutionalStem:
    torch.manual_seed(0)
    return ConvolutionalStem(3, patch, width).eval()


@pytest.mark.parametrize(("patch", "width"), [(4, 8), (8, 16), (16, 16)])
def test_one_embedding_per_patch(patch: int, width: int) -> None:
    assert stem(patch, width)(torch.randn(2, 3, 32, 64)).shape == (2, (32 // patch) * (64 // patch), width)


def test_embeddings_come_row_by_row_and_see_beyond_their_patch_but_not_everything() -> None:
    images = torch.randn(1, 3, 128, 128)
    touched = images.clone()
    touched[:, :, 17, 41] += 1  # in row 2, column 5 of the 16 x 16 patches
    change = (stem()(touched) - stem()(images)).abs().sum(-1).view(16, 16)
    assert change[2, 5] > 0
    assert change[2, 4] > 0
    assert change[15, 15] == 0


def test_a_shifted_image_gives_shifted_embeddings() -> None:
    """What a linear patch embedding followed by positions must learn from data."""
    images = torch.randn(1, 3, 128, 128)
    plain = stem()(images).view(16, 16, 16)
    shifted = stem()(images.roll(8, 3)).view(16, 16, 16)
    torch.testing.assert_close(shifted[5:11, 6:12], plain[5:11, 5:11], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("patch", "width", "rule"),
    [
        (6, 16, "patch_size=6: convolutions halve"),
        (2, 16, "patch_size=2"),
        (8, 18, "width=18: must be a multiple of 4"),
    ],
)
def test_sizes_that_cannot_be_halved_are_refused(patch: int, width: int, rule: str) -> None:
    with pytest.raises(UserError, match=rule):
        ConvolutionalStem(3, patch, width)
