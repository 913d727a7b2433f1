"""What parity of CLIP does not show: patch states, and where a text ends."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from archlab.errors import UserError
from archlab.interop.parity.probes import questions
from archlab.interop.parity.twin import build
from archlab.models.registry import find

TWIN = build(find("clip"))


@torch.no_grad()
def test_logits_are_the_same_in_one_call_or_from_vectors_that_were_kept():
    images, tokens = questions(TWIN)
    kept = TWIN.model.logits(TWIN.model.embed_images(images), TWIN.model.embed_texts(tokens))
    assert torch.equal(TWIN.model(images, tokens), kept)
    assert TWIN.model(images[:1], tokens).shape == (1, 2)


@torch.no_grad()
def test_patch_states_are_the_references_after_its_last_norm():
    images, _ = questions(TWIN)
    theirs = TWIN.reference.vision_model
    expected = theirs.post_layernorm(theirs(pixel_values=images).last_hidden_state)[:, 1:]
    torch.testing.assert_close(TWIN.model.patch_states(images), expected)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(8, 12), min_size=0, max_size=10), st.lists(st.integers(0, 12), min_size=1, max_size=12))
def test_what_follows_the_end_of_a_text_changes_nothing(text, padding):
    ended = torch.tensor([[*text, 7]])
    padded = torch.tensor([[*text, 7, *padding]])
    torch.testing.assert_close(TWIN.model.embed_texts(padded), TWIN.model.embed_texts(ended))


def test_what_the_towers_do_not_read_is_refused():
    with pytest.raises(UserError, match=r"images of shape \(3, 12, 14\): this model reads \(3, 14, 14\)"):
        TWIN.model.embed_images(torch.zeros(1, 3, 12, 14))
    with pytest.raises(UserError, match="text of 25 tokens: this model reads at most 24"):
        TWIN.model.embed_texts(torch.zeros(1, 25, dtype=torch.long))
