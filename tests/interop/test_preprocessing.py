from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.checkpoints import save_preprocessor
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from archlab.errors import UserError
from archlab.interop.preprocessing import Preprocessing

SMALL = torch.randint(0, 256, (2, 24, 24, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("processor", [ViTImageProcessorPil, SiglipImageProcessorPil])
@pytest.mark.parametrize("side", [24, 32])
def test_pixels_are_those_of_the_reference(processor: Any, side: int, tmp_path: Path) -> None:
    """Of squares, of which the reference cuts nothing off either; they are scaled by the checkpoint's own filter."""
    theirs = processor(size={"height": side, "width": side})
    theirs.save_pretrained(tmp_path)
    expected = theirs(list(SMALL.numpy()), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(Preprocessing.read(tmp_path)(SMALL), expected)


def test_the_filter_matters(tmp_path: Path) -> None:
    save_preprocessor(tmp_path)
    cubic = Preprocessing.read(tmp_path)(SMALL)
    save_preprocessor(tmp_path, resample=2)
    assert (Preprocessing.read(tmp_path)(SMALL) - cubic).abs().max() > 0.01


def test_nothing_is_cut_off(tmp_path: Path) -> None:
    """Images are asked for at the size that is left of a crop, with their borders."""
    save_preprocessor(tmp_path)
    found = Preprocessing.read(tmp_path)
    assert found.size == 32
    image = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    image[:, 0] = 255
    pixels = found(image)
    assert (pixels[:, :, 0] > pixels[:, :, 1]).all()


def test_what_is_switched_off_is_not_done(tmp_path: Path) -> None:
    save_preprocessor(tmp_path, do_normalize=False, do_rescale=False, size=24, do_center_crop=False)
    assert torch.equal(Preprocessing.read(tmp_path)(SMALL), SMALL.float().permute(0, 3, 1, 2))
    save_preprocessor(tmp_path, do_normalize=False, size={"shortest_edge": 24}, do_center_crop=False)
    torch.testing.assert_close(Preprocessing.read(tmp_path)(SMALL), SMALL.float().permute(0, 3, 1, 2) / 255)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_size": {"height": 32, "width": 48}}, "only squares are read"),
        ({"crop_size": "large"}, "crop_size='large': only squares"),
        ({"crop_size": {"longest_edge": 32}}, "only squares"),
        ({"image_mean": None}, "image_mean=None and image_std"),
        ({"image_std": [1, 0, 1]}, "the latter positive"),
    ],
)
def test_what_it_cannot_do_is_refused_in_one_line(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    save_preprocessor(tmp_path, **changes)
    with pytest.raises(UserError, match=message) as caught:
        Preprocessing.read(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_without_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"preprocessor_config.json is missing"):
        Preprocessing.read(tmp_path)


def test_the_callers_images_stay_as_they_are(tmp_path: Path) -> None:
    save_preprocessor(tmp_path, size=24, do_center_crop=False)
    before = SMALL.clone()
    Preprocessing.read(tmp_path)(SMALL)
    assert np.array_equal(SMALL.numpy(), before.numpy())
