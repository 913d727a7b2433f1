"""Another order in memory changes how fast a model is read, and nothing else."""

import copy

import pytest
import torch
from torch import nn

from archlab.generate.engine import generate
from archlab.generate.layout import lay_out
from archlab.generate.settings import Settings
from archlab.interop.checkpoint import save_pretrained
from archlab.interop.parity.probes import PROBES, questions
from archlab.models.registry import FAMILIES

WRITING = [name for name, family in FAMILIES.items() if family.kind in ("decoder", "encoder-decoder")]
every_family = pytest.mark.parametrize("name", WRITING)


def laid_out(twin):
    model = copy.deepcopy(twin.model)
    lay_out(model)
    return model


@every_family
@torch.inference_mode()
def test_names_values_and_logits_stay(name, twins):
    twin = twins(name, 0)
    model, probe = laid_out(twin), PROBES[twin.family.kind]
    assert model.state_dict().keys() == twin.model.state_dict().keys()
    assert all(map(torch.equal, model.state_dict().values(), twin.model.state_dict().values()))
    asked = questions(twin)
    torch.testing.assert_close(probe.ours(model, asked), probe.ours(twin.model, asked), rtol=1e-4, atol=1e-4)


def test_the_same_tokens_are_chosen(twin):
    prompts, settings = [[5, 9, 2], [7, 1, 1, 4, 8], [3]], Settings(max_new_tokens=10)
    assert generate(laid_out(twin), prompts, settings) == generate(twin.model, prompts, settings)


@every_family
def test_no_linear_layer_and_no_output_layer_has_short_rows(name, twins):
    model = laid_out(twins(name, 0))
    matrices = {part: layer.weight for part, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    if getattr(model, "head", None) is None:
        matrices["output"] = model.token_embedding.weight
    tall = {part: weight for part, weight in matrices.items() if weight.shape[0] >= weight.shape[1]}
    assert tall
    assert [part for part, weight in tall.items() if weight.stride(0) != 1] == []


def test_a_token_table_that_is_no_output_layer_stays(twins):
    assert laid_out(twins("mixtral", 0)).token_embedding.weight.is_contiguous()


def test_it_is_saved_as_if_nothing_had_happened(twins, tmp_path):
    twin = twins("llama", 0)
    save_pretrained(twin.model, tmp_path / "plain")
    save_pretrained(laid_out(twin), tmp_path / "laid out")
    for path in (tmp_path / "plain").iterdir():
        assert path.read_bytes() == (tmp_path / "laid out" / path.name).read_bytes()
