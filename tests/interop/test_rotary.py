"""Rotary scalings in configurations of `transformers`, and in decoding with reserved memory."""

import dataclasses

import pytest
import torch
from transformers import LlamaConfig

from archlab.errors import UserError
from archlab.interop.parity.twin import build
from archlab.layers.cache import StaticCache
from archlab.layers.rotary_scaling import DynamicNTKScaling, LinearScaling, NTKScaling, YarnScaling
from archlab.models.registry import find


@torch.no_grad()
def test_reserved_memory_decodes_what_growing_memory_does():
    model, tokens = build(find("llama").variant("YaRN")).model, torch.randint(61, (2, 9))
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
