"""What parity of V-JEPA 2 does not show: patches given and wanted in any order, still images, every mask token."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from archlab.errors import UserError
from archlab.interop.parity.twin import build
from archlab.models.registry import find

TWIN = build(find("vjepa"))
PATCHES = 9  # of a frame
CLIPS = torch.randn(2, 4, 3, 12, 12, generator=torch.Generator().manual_seed(0))
NUMBERS = st.permutations(range(2 * PATCHES))


@settings(max_examples=8)
@given(NUMBERS, NUMBERS, st.integers(1, 9), st.integers(1, 9))
@torch.no_grad()
def test_patches_may_be_given_and_wanted_in_any_order(one, other, given_count, wanted_count):
    order = torch.tensor([one, other])
    context, targets = order[:, :given_count], order[:, -wanted_count:]
    expected = TWIN.reference(pixel_values_videos=CLIPS, context_mask=[context], target_mask=[targets])
    found = TWIN.model(CLIPS, context, targets)
    torch.testing.assert_close(found, expected.predictor_output.last_hidden_state, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_prediction_reads_the_given_patches_only():
    states = TWIN.model.patch_states(CLIPS)
    context, targets = torch.tensor([[1, 4], [0, 2]]), torch.tensor([[9], [11]])
    changed = torch.zeros_like(states).scatter(1, context[..., None].expand(-1, -1, states.shape[-1]), 1.0) * states
    predict = TWIN.model.predictor
    assert torch.equal(predict(changed, context, targets), predict(states, context, targets))


@torch.no_grad()
def test_every_mask_token_can_be_chosen_and_they_are_counted_round():
    states = TWIN.model.patch_states(CLIPS)
    context, targets = torch.tensor([[1, 4], [0, 2]]), torch.tensor([[9], [11]])
    zero, one, two, three = (TWIN.model.predictor(states, context, targets, mask_token=n) for n in range(4))
    assert torch.equal(three, zero)
    assert torch.equal(one, TWIN.model.predictor(states, context, targets))
    assert not torch.allclose(two, zero)


@torch.no_grad()
def test_a_still_image_is_a_clip_of_one_repeated_frame():
    images = CLIPS[:, 0]
    expected = TWIN.reference(pixel_values_videos=images[:, None], skip_predictor=True).last_hidden_state
    found = TWIN.model.patch_states(images)
    torch.testing.assert_close(found, expected)
    assert torch.equal(TWIN.model.patch_states(images[:, None]), found)
    assert torch.equal(TWIN.model.encoder(images[:, None].repeat(1, 2, 1, 1, 1)), found)


@pytest.mark.parametrize("shape", [(1, 3, 3, 12, 12), (1, 2, 1, 12, 12), (1, 2, 3, 12, 16), (1, 3, 16, 16)])
def test_clips_of_another_shape_are_refused(shape):
    with pytest.raises(UserError, match=r"this model reads \(frames, \*\(3, 12, 12\)\), frames a multiple of 2"):
        TWIN.model.patch_states(torch.zeros(shape))
