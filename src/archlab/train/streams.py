"""Batches for pretraining: images and clips of scenes and of real sources, each batch a pure function of the step.

Train splits only; the scenes are drawn from a stream of their own, which never holds the attribute combinations that
are held out.

Shape legend: B samples, F frames, C channels, H x W pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from archlab.config import PretrainConfig
from archlab.data.patch_masks import LONG_RANGE, SHORT_RANGE, PatchMasks, image_masks, tube_masks
from archlab.data.scenes.render import render
from archlab.data.scenes.video import VideoConfig, render_video, sample_videos
from archlab.data.scenes.world import SceneConfig, sample_scenes
from archlab.data.sources import image_source
from archlab.data.views import ViewBatch, draw_views
from archlab.vl.encoder import PIXEL_SCALE, encoder_config, normalise

_NOISE = 40.0 / PIXEL_SCALE  # largest amplitude of the input noise; the loudest scenes have as much
_VIEWS, _MASKS = 1, 2  # streams of random numbers beside that of the images


@dataclass(frozen=True)
class ImageBatch:
    """Images (B, C, H, W) as the encoder sees them, and clean, as it must reconstruct them."""

    images: Tensor
    clean: Tensor


@dataclass(frozen=True)
class MaskedBatch:
    """Images (B, C, H, W) or clips (B, F, C, H, W), and the ways in which their patches are hidden."""

    inputs: Tensor
    masks: Sequence[PatchMasks]

    def rows(self, part: Callable[[int], slice]) -> MaskedBatch:
        """The samples that `part` says, of their number."""
        own = part(len(self.inputs))
        return MaskedBatch(self.inputs[own], [PatchMasks(one.context[own], one.targets[own]) for one in self.masks])


class ImageStream:
    """Batches of images and of clips."""

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config
        # Decoded once: 64-pixel images of a few data sets fit in memory, and each is drawn many times.
        self.sources = [
            image_source(name, config.image_size, config.seed)[:] for name in config.sources if name != "scenes"
        ]
        self.digests = [hashlib.sha256(source.tobytes()).hexdigest() for source in self.sources]

    def __call__(self, step: int) -> ImageBatch:
        """The images of a step."""
        clean, generator = self._draw(step)
        return ImageBatch(_noisy(clean[:, 0], generator), clean[:, 0])

    def clean(self, step: int) -> Tensor:
        """The images of that batch alone, (B, C, H, W)."""
        return self._draw(step)[0][:, 0]

    def views(self, step: int) -> ViewBatch:
        """Two views of every image of the step."""
        settings = self.config.lejepa
        seed = int(np.random.default_rng([self.config.seed, step, _VIEWS]).integers(2**62))
        generator = torch.Generator().manual_seed(seed)
        return draw_views(self.clean(step), settings.points, settings.recoloured, generator)

    def blocks(self, step: int) -> MaskedBatch:
        """The images of a step with the masks of I-JEPA."""
        shape = encoder_config(self.config)
        images = self(step).images
        return MaskedBatch(images, [image_masks(len(images), shape.grid, self._mask_generator(step))])

    def tubes(self, step: int) -> MaskedBatch:
        """Clips with the masks of V-JEPA: videos of scenes; real images as clips in which nothing moves.

        There are as many frames in a batch as images in one of the other methods.
        """
        settings, shape = self.config.jepa, encoder_config(self.config)
        clips = _noisy(*self._draw(step, settings.frames))
        generator, tubelets = self._mask_generator(step), settings.frames // settings.tubelet
        ways = (SHORT_RANGE, LONG_RANGE)
        return MaskedBatch(clips, [tube_masks(len(clips), shape.grid, tubelets, way, generator) for way in ways])

    def _mask_generator(self, step: int) -> np.random.Generator:
        return np.random.default_rng([self.config.seed, step, _MASKS])

    def _draw(self, step: int, frames: int = 1) -> tuple[Tensor, np.random.Generator]:
        """Clean clips (B, F, C, H, W), and the generator that the step's noise comes from."""
        config = self.config
        generator = np.random.default_rng([config.seed, step])
        samples = config.optimizer.batch_size // frames
        scenes = round(samples * (config.scenes_share if self.sources else 1.0)) if "scenes" in config.sources else 0
        parts = [_scenes(config.image_size, scenes, step * scenes, frames)] if scenes else []
        shares = np.array_split(np.arange(samples - scenes), max(len(self.sources), 1))
        for source, share in zip(self.sources, shares, strict=False):
            rows = generator.integers(0, len(source), len(share))
            parts.append(source[rows].repeat(frames, 0))
        return normalise(torch.from_numpy(np.concatenate(parts))).unflatten(0, (samples, frames)), generator


def _scenes(image_size: int, count: int, start: int, frames: int) -> np.ndarray:
    """Scenes one after the other, or the frames of videos, uint8 (count * frames, H, W, C).

    Clean: noise is added to the input alone, so that a picture that must be reconstructed is one that can be.
    """
    if frames == 1:
        world = SceneConfig(image_size=image_size, max_noise=0.0)
        return render(sample_scenes(count, world, split="pretrain", start=start), image_size)
    filmed = VideoConfig(image_size=image_size, max_noise=0.0, frames=frames)
    videos = sample_videos(count, filmed, split="pretrain", start=start)
    return np.concatenate([render_video(video, image_size) for video in videos])


def _noisy(clean: Tensor, generator: np.random.Generator) -> Tensor:
    """Every sample (B, ...) with noise of an amplitude of its own."""
    amplitude = generator.uniform(0, _NOISE, (len(clean), *[1] * (clean.dim() - 1)))
    return clean + torch.from_numpy((amplitude * generator.uniform(-1, 1, clean.shape)).astype(np.float32))
