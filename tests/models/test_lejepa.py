from __future__ import annotations

import torch

from archlab.config import TransformerConfig
from archlab.models.lejepa import LeJEPA
from archlab.models.vit import ViTConfig

SIZE = TransformerConfig(width=16, depth=1, heads=2, feed_forward=32)


def tiny() -> LeJEPA:
    torch.manual_seed(0)
    config = ViTConfig(image_size=32, transformer=SIZE, stem="convolutional", class_token=False, positions="sinusoidal")
    return LeJEPA(config, projector=24, embedding=6)


def test_shapes() -> None:
    images, points = torch.randn(2, 3, 3, 32, 32), torch.rand(2, 3, 5, 2)
    local = tiny()(images, images, points)
    assert local.embeddings.shape == (2, 3, 5, 6)
    assert local.reconstruction.shape == local.thumbnails.shape == (2, 3, 16, 12)


def test_a_point_at_a_patchs_centre_reads_that_patch_alone() -> None:
    model = tiny().eval()
    images = torch.randn(1, 1, 3, 32, 32)
    centre = torch.tensor([2 * (2.5 / 4) - 1, 2 * (1.5 / 4) - 1])  # column 2, row 1 of the 4 x 4 patches
    local = model(images, images, centre.view(1, 1, 1, 2))
    expected = model.projector(model.encoder(images[0])[:, 4 + 2])
    torch.testing.assert_close(local.embeddings[0, 0], expected)


def test_thumbnails_are_the_clean_colours_of_each_quarter_of_a_patch() -> None:
    clean = torch.zeros(1, 1, 3, 32, 32)
    clean[0, 0, 1, 4:8, 8:12] = 2.0  # green: lower left quarter of patch (0, 1)
    thumbnails = tiny().eval()(torch.randn(1, 1, 3, 32, 32), clean, torch.zeros(1, 1, 1, 2)).thumbnails[0, 0]
    assert thumbnails.nonzero().tolist() == [[1, 4 + 2]]
    assert thumbnails[1, 6] == 2.0


def test_every_parameter_learns() -> None:
    model = tiny()
    images = torch.randn(2, 3, 3, 32, 32)
    local = model(images, images, torch.rand(2, 3, 5, 2))
    (local.embeddings.square().mean() + local.reconstruction.square().mean()).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())
