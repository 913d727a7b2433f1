from __future__ import annotations

import torch
from torch.nn import functional as F

from archlab.data.views import ViewBatch, draw_views


def photographs(count: int = 6, side: int = 64) -> torch.Tensor:
    """Smooth pictures, so that bilinear resampling changes little."""
    noise = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return F.interpolate(noise, (side, side), mode="bicubic")


def views(seed: int = 0, *, recoloured: float = 0.0, points: int = 32) -> ViewBatch:
    return draw_views(photographs(), points, recoloured, torch.Generator().manual_seed(seed))


def look_up(batch: ViewBatch, view: int) -> torch.Tensor:
    """Pixels (n, 3) of a view at its visible points."""
    pixels = F.grid_sample(batch.clean[view], batch.points[view][:, :, None], align_corners=False)[..., 0]
    return pixels.transpose(1, 2)[batch.visible]


def test_a_point_is_the_same_spot_in_every_view() -> None:
    batch = views()
    first, second = look_up(batch, 0), look_up(batch, 1)
    stacked = torch.stack([first.flatten(), second.flatten()])
    assert torch.corrcoef(stacked)[0, 1] > 0.9  # brightness and contrast differ between the views
    elsewhere = torch.stack([first.flatten(), second.roll(1, 0).flatten()])
    assert torch.corrcoef(elsewhere)[0, 1] < 0.5


def test_visible_points_lie_inside_every_view_and_most_points_are_visible() -> None:
    batch = views(points=200)
    assert (batch.points[:, batch.visible].abs() < 0.92).all()
    assert 0.5 < batch.visible.float().mean() < 1.0


def test_recolouring_changes_colours_and_nothing_where_it_is_off() -> None:
    def channels_agree(batch: ViewBatch) -> float:
        first, second = look_up(batch, 0), look_up(batch, 1)
        return float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])

    assert channels_agree(views(recoloured=0.0)) > 0.9 > channels_agree(views(recoloured=1.0))


def test_noise_is_on_the_images_alone_and_every_view_has_an_amplitude_of_its_own() -> None:
    batch = views()
    amplitudes = (batch.images - batch.clean).flatten(2).std(2).flatten()
    assert ((amplitudes > 0) & (amplitudes < 0.55)).all()
    assert len(torch.unique(amplitudes)) == len(amplitudes)


def test_views_follow_from_the_generator() -> None:
    first, again, other = views(3), views(3), views(4)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.points, again.points)
    assert not torch.equal(first.images, other.images)
    assert not torch.equal(first.clean[0], first.clean[1])
