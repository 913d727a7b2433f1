"""Another order in memory changes how fast a model is read, and nothing else."""

import copy

import pytest
import torch
from torch import nn

from archlab.bench.quantised import quantise
from archlab.generate import layout
from archlab.generate.engine import generate
from archlab.generate.layout import lay_out
from archlab.generate.settings import Settings
from archlab.interop.parity.probes import PROBES, questions
from archlab.layers.packed import PackedLinear, can_pack
from archlab.models.registry import FAMILIES

WRITING = [name for name, family in FAMILIES.items() if family.kind in ("decoder", "encoder-decoder")]
every_family = pytest.mark.parametrize("name", WRITING)
packs = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")


@pytest.fixture(params=["packed", "by columns"])
def kind(request, monkeypatch):
    """How matrices are laid out whatever their size."""
    if request.param == "packed" and not torch.backends.mkldnn.is_available():
        pytest.skip("needs oneDNN")
    monkeypatch.setattr(layout, "_pays", lambda weight, sequences: request.param == "packed")
    return request.param


def laid_out(twin, sequences=1):
    model = copy.deepcopy(twin.model)
    lay_out(model, sequences)
    return model


@every_family
@torch.inference_mode()
def test_logits_stay(name, twins, kind):
    twin = twins(name, 0)
    probe, asked = PROBES[twin.family.kind], questions(twin)
    expected = probe.ours(twin.model, asked)
    torch.testing.assert_close(probe.ours(laid_out(twin), asked), expected, rtol=1e-4, atol=1e-4)


def test_the_same_tokens_are_chosen(twin, kind):
    prompts, settings = [[5, 9, 2], [7, 1, 1, 4, 8], [3]], Settings(max_new_tokens=10)
    assert generate(laid_out(twin, 3), prompts, settings) == generate(twin.model, prompts, settings)


@every_family
def test_no_linear_layer_and_no_output_layer_is_left_out(name, twins, kind):
    model = laid_out(twins(name, 0))
    left = {part: layer.weight for part, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    left = {part: weight for part, weight in left.items() if weight is not None}
    assert model.head is not None
    if kind == "packed":
        # The matrix that latent attention multiplies its queries by is read by itself.
        assert [part for part in left if not part.endswith("kv_proj")] == []
        assert any(isinstance(layer, PackedLinear) for layer in model.modules())
    else:
        tall = {part: weight for part, weight in left.items() if weight.shape[0] >= weight.shape[1]}
        assert tall
        assert [part for part, weight in tall.items() if weight.stride(0) != 1 and not part.endswith("kv_proj")] == []


@packs
def test_large_matrices_are_packed_and_of_several_sequences_or_half_as_many_bytes_smaller_ones_too(twins):
    for sequences, dtype, inner in (
        (1, torch.float32, nn.Linear),
        (4, torch.float32, PackedLinear),
        (1, torch.bfloat16, PackedLinear),
    ):
        if not can_pack(dtype):
            continue
        model = copy.deepcopy(twins("gpt2", 0).model)
        model.blocks[0].feed_forward.up_proj = nn.Linear(256, 1024)
        model.blocks[0].feed_forward.down_proj = nn.Linear(1024, 512)
        lay_out(model.to(dtype), sequences)
        assert type(model.blocks[0].feed_forward.up_proj) is inner
        assert type(model.blocks[0].feed_forward.down_proj) is PackedLinear
        assert type(model.blocks[0].attention.out_proj) is nn.Linear  # tiny


def test_a_token_table_is_left_for_reading_tokens(twins, kind):
    twin = twins("gpt2", 0)
    assert torch.equal(laid_out(twin).token_embedding.weight, twin.model.token_embedding.weight)


def test_quantised_layers_stay(twins, kind):
    quantised = quantise(twins("llama", 0).model)
    types = [type(layer) for layer in quantised.blocks.modules()]
    lay_out(quantised)
    assert [type(layer) for layer in quantised.blocks.modules()] == types


def test_a_model_that_is_elsewhere_stays(twins):
    model = copy.deepcopy(twins("llama", 0).model).to("meta")
    names = model.state_dict().keys()
    lay_out(model)
    assert model.state_dict().keys() == names
