"""Random views of images, and the spots that all views of an image show.

Shape legend: V views, B images, C channels, H x W pixels, n points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

# Small enough that a view keeps its answers: sizes stay apart, and a square stays apart from a diamond.
_ZOOM, _ROTATION, _SHIFT = 0.1, 0.15, 0.25  # largest logarithm of the scale, radians, half pictures
_INVERTED = 0.3  # share of the channels that are turned negative where a view is recoloured
_CONTRAST, _BRIGHTNESS = 0.3, 0.3
_NOISE = 0.5  # largest standard deviation of the pixel noise, in units of the normalised image
_REACH, _INSIDE = 0.85, 0.92  # points are drawn within, and must lie within in every view


@dataclass(frozen=True)
class ViewBatch:
    """Views of a batch of images.

    Attributes:
        images: float32 (V, B, C, H, W).
        clean: the same without noise.
        points: (V, B, n, 2), x and y from -1 to 1 across the view's picture; point i of every view is the same spot.
        visible: (B, n), True where every view shows the point.
    """

    images: Tensor
    clean: Tensor
    points: Tensor
    visible: Tensor

    def rows(self, part: Callable[[int], slice]) -> ViewBatch:
        """The views of the images that `part` chooses of B."""
        own = part(len(self.visible))
        return ViewBatch(self.images[:, own], self.clean[:, own], self.points[:, own], self.visible[own])


def draw_views(images: Tensor, points: int, recoloured: float, generator: torch.Generator, views: int = 2) -> ViewBatch:
    """Draw views: a zoom, rotation, shift or reflection each, other colours, contrast, brightness and noise.

    Args:
        images: normalised, (B, C, H, W).
        points: n.
        recoloured: share of the views whose channels are permuted and partly inverted. Such views agree in shape and
            texture but not in colour.
        views: V.
    """
    count = len(images)
    transforms = torch.stack([_transform(count, generator) for _ in range(views)])  # (V, B, 2, 3)
    spots = _uniform((count, points, 2), _REACH, generator)
    located = torch.stack([_locate(transform, spots) for transform in transforms])  # (V, B, n, 2)
    clean = torch.stack([_photograph(_warp(images, one), recoloured, generator) for one in transforms])
    amplitude = torch.rand(views, count, 1, 1, 1, generator=generator) * _NOISE
    noise = torch.randn(clean.shape, generator=generator) * amplitude
    return ViewBatch(clean + noise, clean, located, (located.abs() < _INSIDE).all(-1).all(0))


def _uniform(shape: tuple[int, ...], limit: float, generator: torch.Generator) -> Tensor:
    return (2 * torch.rand(shape, generator=generator) - 1) * limit


def _transform(count: int, generator: torch.Generator) -> Tensor:
    """From coordinates in the view to coordinates in the image, (B, 2, 3), as `affine_grid` reads it."""
    scale = _uniform((count,), _ZOOM, generator).exp()
    angle = _uniform((count,), _ROTATION, generator)
    mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    linear = torch.stack([torch.stack([cos * mirror, -sin], -1), torch.stack([sin * mirror, cos], -1)], 1)  # (B, 2, 2)
    return torch.cat([linear, _uniform((count, 2, 1), _SHIFT, generator)], 2)


def _locate(transform: Tensor, spots: Tensor) -> Tensor:
    """Where a view shows spots (B, n, 2) of the image."""
    linear, shift = transform[:, :, :2], transform[:, :, 2]
    return torch.linalg.solve(linear, (spots - shift[:, None]).transpose(1, 2)).transpose(1, 2)


def _warp(images: Tensor, transform: Tensor) -> Tensor:
    grid = F.affine_grid(transform, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _photograph(images: Tensor, recoloured: float, generator: torch.Generator) -> Tensor:
    count, channels = images.shape[:2]
    chosen = torch.rand(count, generator=generator) < recoloured
    order = torch.rand(count, channels, generator=generator).argsort(1)
    order = torch.where(chosen[:, None], order, torch.arange(channels))
    inverted = chosen[:, None] & (torch.rand(count, channels, generator=generator) < _INVERTED)
    images = images.gather(1, order[:, :, None, None].expand_as(images))
    images = images * torch.where(inverted, -1.0, 1.0)[:, :, None, None]
    contrast = 1 + _uniform((count, 1, 1, 1), _CONTRAST, generator)
    return images * contrast + _uniform((count, 1, 1, 1), _BRIGHTNESS, generator)
