"""What Gemma does beyond the checks of every family: as an encoder, in bfloat16, with bounded memory."""

import pytest
import torch
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3TextModel

from archlab.errors import UserError
from archlab.interop.checkpoint import load_pretrained
from archlab.interop.parity.checks import hidden_states
from archlab.interop.parity.states import blocks, states
from archlab.interop.parity.twin import build, randomise
from archlab.layers.cache import KVCache
from archlab.layers.pooling import masked_mean
from archlab.models.gemma import GemmaConfig
from archlab.models.registry import find

GEMMA = find("gemma")
ENCODER = GEMMA.variant("bidirectional")
TOKENS = torch.randint(61, (2, 12), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("index", range(len(GEMMA.interop.FAULTS)))
def test_every_planted_bug_is_noticed_in_the_bidirectional_model_too(index):
    twin, fault = build(ENCODER), GEMMA.interop.FAULTS[index]
    for _ in range(2 if "one token too wide" in fault.cause else 1):  # half of the window lies on either side
        fault.plant(twin.model, blocks(twin)[1:2])
    assert not hidden_states(twin)[1]


def test_pooled_states_are_those_of_embeddinggemma():
    """Right-padded texts, the mean over real tokens: what its checkpoint does before its last two linear layers."""
    twin = build(ENCODER)
    theirs = twin.reference.model
    assert isinstance(theirs, Gemma3TextModel)
    mask = torch.arange(12)[None] < torch.tensor([[12], [7]])
    with torch.no_grad():
        found = masked_mean(twin.model.states(TOKENS, mask=mask), mask)
        expected = theirs(input_ids=TOKENS, attention_mask=mask.long()).last_hidden_state
    torch.testing.assert_close(found, masked_mean(expected, mask), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_text_model_is_read_from_a_checkpoint_for_images_and_text(tmp_path):
    tower = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    options = Gemma3Config(
        text_config=GEMMA.interop.config_to_hf(GEMMA.config()).to_dict(),
        vision_config=tower | {"image_size": 8, "patch_size": 4},
        mm_tokens_per_image=1,
    )
    theirs = Gemma3ForConditionalGeneration(options).eval()
    randomise(theirs, torch.Generator().manual_seed(0))
    theirs.save_pretrained(tmp_path)
    expected = theirs(input_ids=TOKENS, use_cache=False).logits
    torch.testing.assert_close(load_pretrained(tmp_path)(TOKENS), expected, rtol=1e-5, atol=1e-5)


def test_in_bfloat16_the_scale_of_the_embeddings_is_rounded_first():
    twin = build(GEMMA)
    twin.model.bfloat16()
    twin.reference.bfloat16()
    entered = states(twin)[0]
    assert torch.equal(entered.ours, entered.theirs)
    exact = twin.model.token_embedding(TOKENS) * GEMMA.config().width ** 0.5
    assert not torch.equal(exact, twin.model.token_embedding(TOKENS) * torch.tensor(32**0.5).bfloat16())


@torch.no_grad()
def test_local_layers_keep_their_window_and_global_ones_everything():
    model = build(GEMMA).model
    cache = model.new_cache()
    for part in TOKENS.split([5, 1, 1, 4, 1], 1):
        model(part, cache=cache)
        assert all(kept.held <= 4 for kept in cache[:2])
    assert [kept.held for kept in cache] == [3, 3, 12]
    assert [kept.length for kept in cache] == [12, 12, 12]


@torch.no_grad()
def test_growing_caches_serve_local_layers_as_well():
    model = build(GEMMA).model
    cache = [KVCache() for _ in model.blocks]
    parts = [model(part, cache=cache) for part in TOKENS.split([5, 3, 4], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), model(TOKENS), rtol=1e-4, atol=1e-5)


def test_a_bidirectional_model_refuses_caches():
    model = build(ENCODER).model
    for ask in (model.new_cache, lambda: model(TOKENS, cache=[KVCache() for _ in model.blocks])):
        with pytest.raises(UserError, match="cache: a bidirectional model has none"):
            ask()


def test_a_window_without_two_halves_is_refused():
    with pytest.raises(UserError, match="window=5: must be even in a bidirectional model"):
        GemmaConfig(window=5, bidirectional=True)
    assert GemmaConfig(window=5).window == 5
