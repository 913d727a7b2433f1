"""T5 of both versions: how the output layer is scaled, and the files that each version has."""

import dataclasses
import json

import pytest
import torch

from archlab.interop.checkpoint import load_pretrained, save_pretrained
from archlab.interop.parity.checks import hidden_states, output
from archlab.interop.parity.explain import explain
from archlab.interop.parity.twin import build
from archlab.models.registry import find

V10 = find("t5").variants["version 1.0"].options


@pytest.fixture(scope="module")
def twin():
    """Of version 1.0: ReLU, and the output layer is the token table."""
    return build(find("t5").variant("version 1.0"))


def test_an_output_layer_that_is_not_scaled_is_noticed(twin, monkeypatch):
    unscaled = twin.model.config.width**0.5
    monkeypatch.setattr(twin.model, "head", lambda x: unscaled * x @ twin.model.token_embedding.weight.T)
    assert hidden_states(twin)[1]
    assert not output(twin)[1]
    assert "final norm or the output layer" in explain(twin).cause


@pytest.mark.parametrize("version", [{}, V10], ids=["1.1", "1.0"])
def test_a_file_says_whether_the_output_layer_is_tied(version, tmp_path):
    family = find("t5")
    config = dataclasses.replace(family.config(), **version)
    save_pretrained(family.model_class(config), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] == config.tied
    assert load_pretrained(tmp_path).config == config


def test_the_unused_table_of_the_first_files_is_left_out(twin):
    theirs = twin.reference.state_dict()
    theirs["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = torch.zeros(8, 3)
    shapes = {name: value.shape for name, value in twin.model.state_dict().items()}
    assert twin.weights.from_hf(theirs, shapes).keys() == shapes.keys()
