"""What parity of SigLIP does not show: patch states, the start of training, texts of any length."""

import torch

from archlab.interop.parity.probes import questions
from archlab.interop.parity.twin import build
from archlab.models.registry import find

TWIN = build(find("siglip"))


@torch.no_grad()
def test_patch_states_are_the_references_last_ones():
    images, _ = questions(TWIN)
    expected = TWIN.reference.vision_model(pixel_values=images).last_hidden_state
    torch.testing.assert_close(TWIN.model.patch_states(images), expected)


@torch.no_grad()
def test_a_text_is_pooled_at_its_last_token_whatever_its_length():
    _, tokens = questions(TWIN)
    for length in (1, 5, 24):
        expected = TWIN.reference.text_model(input_ids=tokens[:, :length]).pooler_output
        found = TWIN.model.embed_texts(tokens[:, :length])
        torch.testing.assert_close(found, expected / expected.norm(dim=-1, keepdim=True))


@torch.no_grad()
def test_training_starts_where_almost_no_pair_matches():
    torch.manual_seed(0)
    family = find("siglip")
    model = family.model_class(family.config())
    images, tokens = questions(TWIN)
    of_images, of_texts = model.embed_images(images), model.embed_texts(tokens)
    torch.testing.assert_close(model(images, tokens), 10 * of_images @ of_texts.T - 10)
