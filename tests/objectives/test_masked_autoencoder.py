from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from archlab.config import TransformerConfig
from archlab.layers.embeddings import patchify
from archlab.models.mae import MaskedAutoencoder
from archlab.models.vit import ViTConfig
from archlab.objectives.masked_autoencoder import MaskedReconstruction, random_visible, reconstruction_loss

SIZE = TransformerConfig(width=24, depth=2, heads=2, feed_forward=48)


def tiny():
    torch.manual_seed(0)
    return MaskedAutoencoder(ViTConfig(image_size=16, patch_size=4, transformer=SIZE, positions="sinusoidal"), SIZE)


@given(st.integers(1, 5), st.integers(2, 64), st.floats(0.01, 0.99), st.integers(0, 1000))
def test_visible_patches_are_a_subset_of_the_asked_size(samples, patches, ratio, seed):
    visible = random_visible(samples, patches, ratio, generator=torch.Generator().manual_seed(seed))
    assert visible.shape[0] == samples
    assert 1 <= visible.shape[1] < patches
    assert visible.shape[1] == 1 or abs(visible.shape[1] - patches * (1 - ratio)) <= 1
    assert (visible.diff(dim=1) > 0).all()  # ascending, hence distinct
    assert visible.min() >= 0
    assert visible.max() < patches
    again = random_visible(samples, patches, ratio, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(visible, again)


@pytest.mark.parametrize(("patches", "ratio", "count"), [(64, 0.75, 16), (10, 0.9, 1), (20, 0.9, 2), (100, 0.6, 40)])
def test_number_of_visible_patches_is_exact(patches, ratio, count):
    assert random_visible(1, patches, ratio).shape == (1, count)


def test_every_patch_is_visible_equally_often():
    visible = random_visible(8000, 8, 0.75, generator=torch.Generator().manual_seed(0))
    shares = torch.bincount(visible.flatten(), minlength=8) / 8000
    assert (shares - 0.25).abs().max() < 0.02  # four standard deviations
    both = torch.zeros(8, 8)
    both.index_put_((visible[:, 0], visible[:, 1]), torch.ones(8000), accumulate=True)
    pairs = both[*torch.triu_indices(8, 8, 1)] / 8000
    assert (pairs - 1 / 28).abs().max() < 0.01  # the 28 pairs are equally likely as well


def test_loss_counts_masked_patches_only():
    patches, prediction = torch.randn(2, 5, 12), torch.randn(2, 5, 12)
    masked = torch.tensor([[1, 0, 1, 1, 0], [0, 1, 1, 0, 1]], dtype=torch.bool)
    loss = reconstruction_loss(prediction, patches, masked)
    prediction[~masked] += 10
    assert torch.equal(reconstruction_loss(prediction, patches, masked), loss)
    prediction[masked] += 10
    assert reconstruction_loss(prediction, patches, masked) > loss + 10


def test_target_is_each_patch_normalised_by_itself():
    patches = torch.randn(1, 3, 12) * 4 + 2
    normalised = torch.stack([(p - p.mean()) / p.std() for p in patches[0]])[None]
    masked = torch.ones(1, 3, dtype=torch.bool)
    assert reconstruction_loss(normalised, patches, masked) < 1e-8
    torch.testing.assert_close(reconstruction_loss(normalised + 2, patches, masked), torch.tensor(4.0))
    # Brightness and contrast of a patch leave its target as it is.
    assert reconstruction_loss(normalised, patches * 3 + 1, masked) < 1e-8


def test_a_patch_of_one_colour_is_zeros_and_has_finite_gradients():
    prediction = torch.zeros(1, 1, 12, requires_grad=True)
    loss = reconstruction_loss(prediction, torch.full((1, 1, 12), 0.5), torch.ones(1, 1, dtype=torch.bool))
    loss.backward()
    assert loss == 0
    assert prediction.grad.isfinite().all()


def test_objective_reconstructs_the_clean_image_from_what_it_left_visible():
    mae, batch = tiny(), SimpleNamespace(images=torch.randn(3, 3, 16, 16), clean=torch.randn(3, 3, 16, 16))
    torch.manual_seed(5)
    output = MaskedReconstruction(0.75)(mae, batch)
    torch.manual_seed(5)
    visible = random_visible(3, 16, 0.75)
    prediction, masked = mae(batch.images, visible)
    expected = reconstruction_loss(prediction, patchify(batch.clean, 4), masked)
    assert masked.sum() == 3 * 12
    assert torch.equal(output.loss, expected)
    assert torch.equal(output.parts["reconstruction"], expected)
    assert not output.parts["reconstruction"].requires_grad


def test_a_tiny_autoencoder_learns_images_by_heart():
    mae, objective = tiny(), MaskedReconstruction(0.5)
    torch.manual_seed(1)
    # Bars of a few frequencies: a hidden patch follows from the visible ones.
    phases, rows = torch.rand(4, 1, 1, 1) * 6, torch.linspace(0, 12, 16).view(1, 1, 16, 1)
    images = (rows + phases).sin().expand(4, 3, 16, 16)
    batch = SimpleNamespace(images=images, clean=images)
    optimizer = torch.optim.Adam(mae.parameters(), lr=3e-3)
    losses = []
    for step in range(400):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / 400)  # a constant one ends wherever its last jump led
        loss = objective(mae, batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.8
    assert sum(losses[-20:]) / 20 < 0.2


def test_bfloat16_training_step_is_finite():
    mae, images = tiny(), torch.randn(2, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        output = MaskedReconstruction()(mae, SimpleNamespace(images=images, clean=images))
    output.loss.backward()
    assert output.loss.dtype == torch.float32
    assert output.loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in mae.parameters())
