"""What parity of DINOv2 does not show: images of every size, and what a masked patch shows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from archlab.errors import UserError
from archlab.interop.parity.twin import build
from archlab.models.registry import find

FAMILY = find("dinov2")
TWINS = {"plain": build(FAMILY.variant("without registers and gate")), "registers": build(FAMILY)}


@pytest.mark.parametrize("name", TWINS)
@settings(max_examples=8)
# Grids of one column are left out: torch 2.13 interpolates the reference's table, whose channels come last, wrongly.
@given(rows=st.integers(1, 8), columns=st.integers(2, 8))
@torch.no_grad()
def test_images_of_every_size_are_described_as_by_the_reference(name, rows, columns):
    twin = TWINS[name]
    images = torch.randn(2, 3, 4 * rows, 4 * columns, generator=torch.Generator().manual_seed(0))
    expected = twin.reference(pixel_values=images).last_hidden_state
    torch.testing.assert_close(twin.model(images), expected, rtol=1e-4, atol=1e-5)
    first = 1 + twin.config.registers
    torch.testing.assert_close(twin.model.patch_states(images), expected[:, first:], rtol=1e-4, atol=1e-5)


def test_what_a_masked_patch_shows_is_not_seen():
    model = TWINS["registers"].model
    images = torch.randn(1, 3, 20, 20)
    masked = torch.zeros(1, 25, dtype=torch.bool)
    masked[0, 7] = True  # the second row, the third column
    changed = images.clone()
    changed[..., 4:8, 8:12] += 1
    torch.testing.assert_close(model(changed, masked), model(images, masked))
    assert not torch.allclose(model(changed), model(images))


def test_what_the_model_does_not_read_is_refused():
    model = TWINS["plain"].model
    with pytest.raises(UserError, match="images of 1 channels: this model reads 3"):
        model(torch.zeros(1, 1, 20, 20))
    with pytest.raises(UserError, match="both sides must be multiples of the patch, 4"):
        model(torch.zeros(1, 3, 20, 18))
