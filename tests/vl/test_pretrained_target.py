"""A pretrained target encoder reads the same text in its own tokens, learns or stays, and is kept by reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.checkpoints import WORDS, save_text_encoder, save_vision
from torch.nn import functional as F
from transformers import DistilBertConfig, DistilBertModel

from archlab.compare.dimensions import Dimensions, target_dimensions
from archlab.compare.flops import BatchShape, Sizes, counted_flops, training_flops
from archlab.config import EmbeddingArmConfig, RunConfig, TransformerConfig
from archlab.data.batch import Batch
from archlab.data.tokenizer import TextTokenizer
from archlab.errors import UserError
from archlab.interop.sentence import load_sentence_encoder
from archlab.train.run import build_objective
from archlab.vl.arms import build_arm
from archlab.vl.target_encoder import PretrainedTargetEncoder, build_target_encoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("text")
    save_text_encoder("bert", place, "cls")
    return place


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer.train(WORDS, 280)


@pytest.fixture
def make(folder: Path, tokenizer: TextTokenizer) -> Callable[..., PretrainedTargetEncoder]:
    """`make(**options)`: the target encoder of that configuration."""

    def made(**options: Any) -> PretrainedTargetEncoder:
        config = EmbeddingArmConfig(**{"embedding": 24, "target_weights": str(folder)} | options)
        encoder = build_target_encoder(config, tokenizer.vocab_size, tokenizer)
        assert isinstance(encoder, PretrainedTargetEncoder)
        return encoder

    return made


def encoded(tokenizer: TextTokenizer, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    ids, mask = tokenizer.encode(texts, 64)
    return torch.from_numpy(ids), torch.from_numpy(mask)


@torch.no_grad()
def test_texts_are_as_alike_as_they_are_to_the_checkpoint(
    make: Callable[..., PretrainedTargetEncoder], folder: Path, tokenizer: TextTokenizer
) -> None:
    """From the first step on, where the shared space is wide enough."""
    own = load_sentence_encoder(str(folder))
    expected = F.normalize(own(*own.tokenize(WORDS)), dim=-1)
    for embedding in (24, 40):
        found = F.normalize(make(embedding=embedding)(*encoded(tokenizer, WORDS)), dim=-1)
        torch.testing.assert_close(found @ found.T, expected @ expected.T, atol=1e-5, rtol=1e-5)


def test_it_reads_the_same_text_in_its_own_tokens(
    make: Callable[..., PretrainedTargetEncoder], tokenizer: TextTokenizer
) -> None:
    encoder = make()
    ids, mask = encoder.spelled(*encoded(tokenizer, WORDS))
    expected, expected_mask = encoder.trunk.tokenize(WORDS)
    assert torch.equal(ids, expected)
    assert torch.equal(mask, expected_mask)
    encoder.tokenizer = None  # then the tokens are its own
    assert encoder.spelled(expected, expected_mask) == (expected, expected_mask)


def trainable(encoder: PretrainedTargetEncoder) -> set[str]:
    return {name.split(".")[0] for name, parameter in encoder.named_parameters() if parameter.requires_grad}


def test_what_learns_depends_on_rate_and_objective(make: Callable[..., PretrainedTargetEncoder]) -> None:
    assert trainable(make()) == {"trunk", "head"}
    assert trainable(make(target_learning_rate_scale=0)) == {"head"}
    assert trainable(make(target_learning_rate_scale=0, objective="vicreg")) == {"head"}
    assert trainable(make(target_learning_rate_scale=0, objective="cosine")) == set()  # it would collapse


def test_all_that_learns_gets_a_gradient(
    make: Callable[..., PretrainedTargetEncoder], tokenizer: TextTokenizer
) -> None:
    encoder = make()
    encoder(*encoded(tokenizer, WORDS)).square().sum(0).mul(torch.arange(24)).sum().backward()
    idle = [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert idle == []


def test_a_checkpoint_holds_what_is_trained_and_the_digest_of_what_is_not(
    make: Callable[..., PretrainedTargetEncoder], tokenizer: TextTokenizer
) -> None:
    frozen = make(target_learning_rate_scale=0)
    assert set(frozen.state_dict()) == {"head.weight", "head.bias", "reference"}
    assert any(name.startswith("trunk.") for name in make().state_dict())
    torch.nn.init.normal_(frozen.head.weight)
    again = make(target_learning_rate_scale=0)
    again.load_state_dict(frozen.state_dict(), strict=True)
    batch = encoded(tokenizer, WORDS)
    assert torch.equal(again(*batch), frozen(*batch))


@pytest.mark.parametrize("scale", [0.0, 0.05])
def test_weights_that_were_trained_on_other_files_are_refused(
    scale: float, make: Callable[..., PretrainedTargetEncoder], tmp_path: Path
) -> None:
    save_text_encoder("bert", tmp_path)  # the same weights, another pooling
    other = make(target_weights=str(tmp_path), target_learning_rate_scale=scale)
    with pytest.raises(UserError, match=r"target encoder: its files \(digest \w+\) are not those of the run"):
        other.load_state_dict(make(target_learning_rate_scale=scale).state_dict())


def test_only_its_shape_is_needed_on_the_meta_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    with torch.device("meta"):
        config = EmbeddingArmConfig(embedding=1536, target_weights="google/embeddinggemma-300m")
        encoder = build_target_encoder(config, 100, None)
        parameters = sum(parameter.numel() for parameter in encoder.parameters())
        assert parameters == 302_863_104 + (768 + 1) * 1536
        with pytest.raises(UserError, match="a dinov2 is no encoder of text"):
            build_target_encoder(replace(config, target_weights="facebook/dinov2-base"), 100, None)


def test_a_vision_model_is_refused(tmp_path: Path) -> None:
    save_vision("vit", tmp_path)
    with pytest.raises(UserError, match=r"tokenizer.json is missing"):
        build_target_encoder(replace(EmbeddingArmConfig(), target_weights=str(tmp_path)), 100, None)


@pytest.mark.parametrize("scale", [0.0, 0.05])
@pytest.mark.parametrize("objective", ["info-nce", "cosine", "vicreg"])
@pytest.mark.parametrize("name", ["bert", "gemma"])
def test_a_training_step_costs_what_the_formula_says(name: str, objective: Any, scale: float, tmp_path: Path) -> None:
    """Of targets in its own tokens; otherwise their number is the run's."""
    save_text_encoder(name, tmp_path)
    size = TransformerConfig(width=16, depth=2, heads=2, feed_forward=32)
    own = EmbeddingArmConfig(
        embedding=12,
        target=size,
        decoder=size,
        target_weights=str(tmp_path),
        target_learning_rate_scale=scale,
        objective=objective,
    )
    run = RunConfig(trunk=size, vljepa=own)
    arm, objective_ = build_arm(run, 10, 40, 5), build_objective(run)
    ids, real = torch.randint(4, 40, (4, 6)), torch.ones(4, 6, dtype=torch.bool)
    batch = Batch(torch.randn(4, 2, 10), ids, real, ids, real, torch.arange(4), torch.arange(4), list("abcd"))
    counted = counted_flops(lambda: objective_(arm, batch).loss.backward())
    assert counted == sum(training_flops(run, Sizes(10, 40, 5), BatchShape(4, 2, 6, 6)).values())


def test_the_size_of_an_adapted_one_is_known_by_the_usual_names(tmp_path: Path) -> None:
    config = DistilBertConfig(vocab_size=61, dim=24, n_layers=2, n_heads=2, hidden_dim=96)
    DistilBertModel(config).save_pretrained(tmp_path)
    found = target_dimensions(EmbeddingArmConfig(target_weights=str(tmp_path)))
    assert found == Dimensions(24, 2, 24, 24, 96, 2, 61)
