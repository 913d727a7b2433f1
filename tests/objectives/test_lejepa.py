from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from archlab.config import TransformerConfig
from archlab.data.views import draw_views
from archlab.models.lejepa import LeJEPA, LocalViews
from archlab.models.vit import ViTConfig
from archlab.objectives.lejepa import LocalInvariance

SIZE = TransformerConfig(width=16, depth=1, heads=2, feed_forward=32)


def measure(first: torch.Tensor, second: torch.Tensor, visible: torch.Tensor) -> dict[str, torch.Tensor]:
    def model(images: object, clean: object, points: object) -> LocalViews:
        return LocalViews(torch.stack([first, second]), torch.full((2, 1, 4, 12), 3.0), torch.ones(2, 1, 4, 12))

    batch = SimpleNamespace(images=None, clean=None, points=None, visible=visible)
    output = LocalInvariance(0.25, 0.5)(model, batch)  # type: ignore[arg-type]
    return {**output.parts, "loss": output.loss}


def test_invariance_is_the_variance_of_a_spot_over_its_views() -> None:
    first, visible = torch.randn(1, 5, 3), torch.ones(1, 5, dtype=torch.bool)
    assert measure(first, first, visible)["invariance"] == 0
    assert measure(first, first + 2, visible)["invariance"].item() == pytest.approx(1.0)


def test_points_that_a_view_does_not_show_do_not_count() -> None:
    first = torch.randn(1, 5, 3)
    second = first.clone()
    second[0, 2] += 100
    assert measure(first, second, torch.tensor([[True, True, False, True, True]]))["invariance"] == 0


def test_the_loss_is_the_weighted_sum_of_its_parts() -> None:
    torch.manual_seed(0)
    visible = torch.ones(1, 5, dtype=torch.bool)
    parts = measure(torch.randn(1, 5, 3), torch.randn(1, 5, 3), visible)
    assert parts["reconstruction"] == 4
    expected = 0.75 * parts["invariance"] + 0.25 * parts["gaussian"] + 0.5 * parts["reconstruction"]
    torch.testing.assert_close(parts["loss"], expected)


@pytest.mark.parametrize("reconstruction", [0.0, 0.5])
def test_without_reconstruction_the_encoder_learns_nothing_from_pixels(reconstruction: float) -> None:
    torch.manual_seed(0)
    config = ViTConfig(image_size=32, transformer=SIZE, stem="linear", class_token=False, positions="sinusoidal")
    model, objective = LeJEPA(config, 32, 4), LocalInvariance(0.01, reconstruction)
    batch = draw_views(torch.randn(4, 3, 32, 32), 8, 0.0, torch.Generator().manual_seed(0))

    def gradient(clean: torch.Tensor) -> torch.Tensor:
        model.zero_grad()
        torch.manual_seed(1)  # the directions that SIGReg draws
        objective(model, replace(batch, clean=clean)).loss.backward()
        return torch.cat([one.grad.flatten() for one in model.encoder.parameters() if one.grad is not None])

    as_it_was, as_noise = gradient(batch.clean), gradient(torch.randn_like(batch.clean))
    assert as_it_was.abs().max() > 0
    assert torch.equal(as_it_was, as_noise) == (reconstruction == 0)


def test_a_tiny_model_learns_to_agree_without_collapsing() -> None:
    torch.manual_seed(0)
    config = ViTConfig(image_size=32, transformer=SIZE, stem="convolutional", class_token=False, positions="sinusoidal")
    model, objective = LeJEPA(config, 32, 4), LocalInvariance(0.01, 0.5)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    images = torch.nn.functional.interpolate(torch.randn(8, 3, 6, 6), (32, 32), mode="bilinear")
    parts = []
    for step in range(60):
        batch = draw_views(images, 16, 0.0, torch.Generator().manual_seed(step))
        output = objective(model, batch)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        parts.append(output.parts)
    spread = model(batch.images, batch.clean, batch.points).embeddings.flatten(0, 2).var(0).mean()
    assert spread > 0.2
    assert parts[-1]["invariance"] < 0.5 * spread
    assert parts[-1]["gaussian"] < 0.2 * parts[0]["gaussian"]
    assert parts[-1]["reconstruction"] < 0.7 * parts[0]["reconstruction"]
