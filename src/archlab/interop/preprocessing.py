"""From pixels to what a pretrained vision model reads, by the checkpoint's own `preprocessor_config.json`.

Differs from `transformers`: nothing is cut off. Where a checkpoint scales an image until it covers the square and cuts
the rest away, ours is scaled until it fits (`data.images`): what is asked about may stand at the border.

Shape legend: B images, H x W pixels, S side of the square that the model reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from archlab.errors import UserError
from archlab.interop.checkpoint import read_json

_FILES = ("preprocessor_config.json", "video_preprocessor_config.json")  # the second is V-JEPA 2's


@dataclass(frozen=True)
class Preprocessing:
    """How images become numbers.

    Attributes:
        size: S.
        mean, std: subtracted, then divided by, per channel.
        rescale: factor on the values 0 to 255, before.
        resample: number of Pillow's filter for images of another size.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rescale: float
    resample: int

    @classmethod
    def read(cls, folder: Path) -> Preprocessing:
        """That of a checkpoint.

        Raises:
            UserError: the file is missing or damaged, or asks for images that are no squares.
        """
        found = next((folder / name for name in _FILES if (folder / name).exists()), folder / _FILES[0])
        given = read_json(found)
        cropped = given.get("do_center_crop") and given.get("crop_size") is not None
        name = "crop_size" if cropped else "size"
        normalised, rescaled = (given.get(f"do_{what}", True) for what in ("normalize", "rescale"))
        mean, std = (
            tuple(map(float, given.get(f"image_{what}") or ())) if normalised else plain
            for what, plain in (("mean", (0.0,) * 3), ("std", (1.0,) * 3))
        )
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise UserError(
                f"{found.name}: image_mean={given.get('image_mean')!r} and image_std={given.get('image_std')!r} must "
                f"be three numbers each, for RGB, and the latter positive"
            )
        factor = float(given.get("rescale_factor", 1 / 255)) if rescaled else 1.0
        size, resample = _side(given.get(name), f"{found.name}: {name}"), given.get("resample")
        return cls(size, mean, std, factor, int(Image.Resampling.BICUBIC if resample is None else resample))

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 RGB squares (B, H, H, 3) of any size to float32 (B, 3, S, S)."""
        if images.shape[1:3] != (self.size, self.size):
            images = torch.from_numpy(np.stack([self._resized(image) for image in images.cpu().numpy()]))
        pixels = images.float() * self.rescale
        return ((pixels - torch.tensor(self.mean)) / torch.tensor(self.std)).permute(0, 3, 1, 2).contiguous()

    def _resized(self, image: np.ndarray) -> np.ndarray:
        scaled = Image.fromarray(image).resize((self.size, self.size), Image.Resampling(self.resample))
        return np.asarray(scaled)


def _side(given: Any, where: str) -> int:
    """The side of the square that a size in a configuration means."""
    sides = given.values() if isinstance(given, Mapping) else [given]
    kinds = set(given) if isinstance(given, Mapping) else set()
    values = set(sides)
    if kinds <= {"height", "width", "shortest_edge"} and len(values) == 1 and type(side := values.pop()) is int:
        return int(side)
    raise UserError(f"{where}={given!r}: only squares are read; use another checkpoint")
