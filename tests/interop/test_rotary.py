"""LLaMA with every rotary scaling that `transformers` has: options there and back, and the same states."""

import dataclasses

import pytest
import torch
from transformers import LlamaConfig

from archlab.errors import UserError
from archlab.interop.parity.checks import gradients, hidden_states, output, round_trip
from archlab.interop.parity.decoding import cached_decoding
from archlab.interop.parity.twin import build
from archlab.layers.cache import StaticCache
from archlab.layers.positions import RotaryEmbedding
from archlab.layers.rotary_scaling import DynamicNTKScaling, LinearScaling, NTKScaling, YarnScaling
from archlab.models.registry import find

SCALINGS = {
    "linear": LinearScaling(factor=4.0),
    "dynamic": DynamicNTKScaling(factor=3.0, original_context=8),  # sequences of the checks have 12 tokens
    "yarn": YarnScaling(factor=4.0, original_context=64, fast_turns=8.0),
    "yarn with magnitudes": YarnScaling(factor=4.0, original_context=64, magnitude=1.0, magnitude_all=0.5),
    "yarn by hand": YarnScaling(factor=4.0, original_context=64, attention_factor=1.2, truncate=False),
}
EVERY = pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS)


def twin_with(scaling):
    llama = find("llama")
    context = 24 if isinstance(scaling, DynamicNTKScaling) else 256
    tiny = dict(llama.tiny) | {"rotary_scaling": dataclasses.asdict(scaling), "context": context}
    return build(dataclasses.replace(llama, tiny=tiny))


@EVERY
def test_states_gradients_and_options_equal_the_reference(scaling):
    twin = twin_with(scaling)
    assert twin.config.rotary_scaling == scaling
    for check in (hidden_states, output, gradients, round_trip):
        assert check(twin)[1], check.__name__
    if not isinstance(scaling, DynamicNTKScaling):
        assert cached_decoding(twin)[1]


@EVERY
def test_a_model_without_the_scaling_is_noticed(scaling):
    twin = twin_with(scaling)
    twin.model.rotary = RotaryEmbedding(8, base=twin.config.rotary_base)
    assert not hidden_states(twin)[1]


@torch.no_grad()
def test_reserved_memory_decodes_what_growing_memory_does():
    model, tokens = twin_with(SCALINGS["yarn"]).model, torch.randint(61, (2, 9))
    cache = [StaticCache(9) for _ in model.blocks]
    parts = [model(part, cache=cache) for part in tokens.split([4, 1, 3, 1], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), model(tokens), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("rope", "expected", "context"),
    [
        ({"type": "linear", "factor": 8}, LinearScaling(factor=8.0), 4096),
        ({"type": "dynamic", "factor": 2.5}, DynamicNTKScaling(factor=2.5, original_context=4096), 10240),
        (
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024, "beta_fast": 16},
            YarnScaling(factor=4.0, original_context=1024, fast_turns=16.0),
            4096,
        ),
        ({"rope_type": "yarn", "factor": 2.0}, YarnScaling(factor=2.0, original_context=4096), 4096),
    ],
)
def test_what_config_files_say_is_read(rope, expected, context):
    config = find("llama").interop.config_from_hf(LlamaConfig(rope_scaling=rope, max_position_embeddings=4096))
    assert (config.rotary_scaling, config.context) == (expected, context)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rotary_scaling": NTKScaling()}, "kind 'ntk': transformers has no such type"),
        ({"rotary_scaling": DynamicNTKScaling(), "context": 9000}, "context=9000: with dynamic scaling .* 8192"),
    ],
)
def test_what_transformers_cannot_express_is_refused(options, message):
    llama = find("llama")
    with pytest.raises(UserError, match=message):
        llama.interop.config_to_hf(dataclasses.replace(llama.config(), **options))
