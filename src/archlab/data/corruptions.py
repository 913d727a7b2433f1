"""Test images made worse, step by step: noise, blur, occlusion, and backgrounds of a style that was never trained on.

What is corrupted is the picture, before the frozen encoder: every arm reads the same damaged features. Twice the
severity is twice the damage (of noise its deviation, of blur its width, of occlusion the hidden area, of style the
share of the other picture). A corrupted image is a pure function of its row, and a severer one is the same damage
enlarged: the same noise, a hole around the same point, the same other background.

Shape legend: n images, H and W their sides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageFilter

from archlab.config import DataConfig
from archlab.data.example import Images, Split
from archlab.data.scenes.render import render
from archlab.data.scenes.world import HELD_OUT_STYLES, SPLITS, Draws, SceneConfig, sample_background, sample_scenes
from archlab.errors import UserError

RULE = "corruptions-1"
"""Name of the rules by which images are corrupted; part of every digest, so that a changed rule is never stale."""

STYLE = "style"
SEVEREST = 8
"""Severities are from 1 to this, at which the style is wholly another."""

_NOISE = 8.0  # grey levels of deviation
_BLUR = 1 / 160  # of the image's side
_HIDDEN = 0.04  # of its area
_STREAM = {"noise": 11, "occlusion": 12, STYLE: 13}  # keeps the random numbers of one from those of another


def _noise(image: np.ndarray, row: int, severity: int) -> np.ndarray:
    """Gaussian, of all channels apart."""
    drawn = np.random.default_rng([_STREAM["noise"], row]).normal(0, 1, image.shape)
    return np.clip(image + _NOISE * severity * drawn + 0.5, 0, 255).astype(np.uint8)


def _blur(image: np.ndarray, row: int, severity: int) -> np.ndarray:
    """Gaussian."""
    width = _BLUR * severity * image.shape[0]
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(width)))


def _occlusion(image: np.ndarray, row: int, severity: int) -> np.ndarray:
    """A square in the image's mean colour, which is no colour of an object, around a random point."""
    height, width = image.shape[:2]
    side = round((_HIDDEN * severity * height * width) ** 0.5)
    down, across = np.random.default_rng([_STREAM["occlusion"], row]).uniform(0, 1, 2)
    top, left = round(down * (height - side)), round(across * (width - side))
    hidden = image.copy()
    hidden[top : top + side, left : left + side] = image.mean((0, 1)) + 0.5
    return hidden


_OF_PIXELS: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {
    "noise": _noise,
    "blur": _blur,
    "occlusion": _occlusion,
}
CORRUPTIONS = (*_OF_PIXELS, STYLE)
"""Their names."""


@dataclass(frozen=True)
class CorruptedImages:
    """The `Images` protocol over other images: a slice is corrupted when it is asked for.

    Attributes:
        images: as they were.
        change: image (H, W, 3) and its row -> the corrupted image.
    """

    images: Images
    change: Callable[[np.ndarray, int], np.ndarray]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(len(self))
        picked = self.images[start:stop]  # (n, H, W, 3)
        changed = [self.change(image, row) for row, image in enumerate(picked, start)]
        return np.stack(changed) if changed else picked


def corrupted(split: Split, kind: str, severity: int, data: DataConfig) -> Split:
    """The split with corrupted images: the same questions about the same, worse pictures.

    Args:
        kind: one of `CORRUPTIONS`.
        severity: 1 to `SEVEREST`.
        data: that the split is of.

    Raises:
        UserError: another style is asked for of pictures that nobody can draw anew.
        ValueError: the kind or the severity is unknown.
    """
    if kind not in CORRUPTIONS or not 1 <= severity <= SEVEREST:
        known = ", ".join(CORRUPTIONS)
        raise ValueError(f"corruption {kind!r} of severity {severity}: choose one of {known}, and 1 to {SEVEREST}")
    if kind == STYLE:
        change = _restyled(split, severity, data)
    else:
        spoil = _OF_PIXELS[kind]
        change = lambda image, row: spoil(image, row, severity)  # noqa: E731
    made_of = f"{RULE} {kind} {severity} {data.seed}"
    return replace(
        split,
        images=CorruptedImages(split.images, change),
        digest=hashlib.sha256(f"{split.digest} {made_of}".encode()).hexdigest(),
        image_digest=hashlib.sha256(f"{split.image_digest} {made_of}".encode()).hexdigest(),
    )


def _restyled(split: Split, severity: int, data: DataConfig) -> Callable[[np.ndarray, int], np.ndarray]:
    """Every image mixed with the same objects on a background whose style no training image has."""
    if data.source != "scenes":
        raise UserError(
            f"corruption {STYLE!r}: redraws the objects of built-in scenes, which data.source={data.source!r} has not; "
            f"leave it out"
        )
    drawn_as = split.name if split.name in SPLITS else "test"  # test_forms words the pictures of test
    config = SceneConfig(image_size=split.images[0:1].shape[1], seed=data.seed)
    scenes = sample_scenes(len(split.images), config, split=drawn_as)
    assert np.array_equal(render(scenes[:1], config.image_size), split.images[0:1]), "the scenes of other pictures"
    others = render(
        [
            replace(
                scene,
                background=sample_background(Draws(data.seed, SPLITS[drawn_as], row, _STREAM[STYLE]), HELD_OUT_STYLES),
            )
            for row, scene in enumerate(scenes)
        ],
        config.image_size,
    )
    share = severity / SEVEREST

    def mixed(image: np.ndarray, row: int) -> np.ndarray:
        return ((1 - share) * image + share * others[row] + 0.5).astype(np.uint8)

    return mixed
