"""Runs over pretrained parts, whole: X-encoder, target encoder and trunk from checkpoints, trained, reloaded, asked."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from tests.checkpoints import WORDS, save_language_model, save_text_encoder, save_vision

from archlab.config import EncoderConfig, LanguageConfig, RunConfig, TransformerConfig
from archlab.errors import UserError
from archlab.evaluate.readout import EmbeddingReadout
from archlab.train.run import Run, load_run, train_run
from archlab.train.setup import Setup
from archlab.vl.answering import Answerer


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a V-JEPA 2, a LLaMA and an encoder of text."""
    folder = tmp_path_factory.mktemp("checkpoints")
    save_vision("vjepa", folder / "vision")
    save_text_encoder("gemma", folder / "text", dense=(20,))
    save_language_model(folder / "language", WORDS)
    return folder


@pytest.fixture(scope="module")
def config(tiny_config: RunConfig, checkpoints: Path) -> RunConfig:
    return replace(
        tiny_config,
        trunk=TransformerConfig(),
        encoder=EncoderConfig(weights=str(checkpoints / "vision"), tokens=4),
        language=LanguageConfig(weights=str(checkpoints / "language"), layers=2),
        vljepa=replace(tiny_config.vljepa, target_weights=str(checkpoints / "text"), target_learning_rate_scale=0.05),
    )


@pytest.fixture(scope="module")
def setup(config: RunConfig) -> Setup:
    return Setup.prepare(config)


@pytest.fixture(scope="module")
def run_of(config: RunConfig, setup: Setup, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """`run_of(arm, scale)`: a finished run. Shared: copy its folder to change it."""

    @cache
    def trained(arm: str, scale: float = 0.05) -> Run:
        own = replace(config.vljepa, target_learning_rate_scale=scale)
        folder = tmp_path_factory.mktemp("runs") / arm
        return train_run(replace(config, arm=arm, vljepa=own), setup, folder, arm)  # type: ignore[arg-type]

    return trained


def saved(run: Run) -> set[str]:
    with safe_open(run.folder / "model.safetensors", "pt") as file:
        return set(file.keys())


def test_the_run_reads_features_of_the_checkpoint_through_its_own_tokenizer(setup: Setup, checkpoints: Path) -> None:
    assert (setup.encoder.tokens, setup.encoder.image_size, setup.encoder.implementation) == (4, 32, "archlab")
    assert setup.features("train").array.shape[2:] == (4, setup.encoder.width)
    own = (checkpoints / "language" / "tokenizer.json").read_text()
    assert setup.tokenizer.vocab_size == 300 or setup.tokenizer.tokenizer.to_str() in own


@pytest.mark.parametrize("arm", ["token", "vljepa"])
def test_both_arms_train_and_are_scored(arm: str, run_of: Callable[..., Run]) -> None:
    run = run_of(arm)
    assert [point["step"] for point in run.metrics["curve"]] == [2, 6]
    assert np.isfinite(run.metrics["curve"][-1]["scores"]["vqa/accuracy"])
    assert any("retrieval" in name for name in run.metrics["curve"][-1]["scores"]) or arm == "token"


@pytest.mark.parametrize(("arm", "scale"), [("token", 0.05), ("vljepa", 0.05), ("vljepa", 0.0)])
def test_a_reloaded_run_says_the_same(arm: str, scale: float, run_of: Callable[..., Run], setup: Setup) -> None:
    run = run_of(arm, scale)
    again = load_run(run.folder, setup)
    batch = setup.collator("validation")(np.arange(6))
    with torch.no_grad():
        first, second = (
            one.arm.predict(batch.features, batch.query, batch.query_mask) if arm == "vljepa" else one.arm.logits(batch)  # type: ignore[union-attr]
            for one in (run, again)
        )
        assert torch.equal(first, second)
        if arm == "vljepa":
            targets: Any = [one.arm.target_encoder(batch.target, batch.target_mask) for one in (run, again)]  # type: ignore[union-attr]
            assert torch.equal(*targets)


def test_trained_parts_are_saved_and_frozen_ones_are_not(run_of: Callable[..., Run]) -> None:
    slow, frozen = saved(run_of("vljepa", 0.05)), saved(run_of("vljepa", 0.0))
    assert {name for name in slow - frozen if not name.startswith("target_encoder.trunk.")} == set()
    assert not any(name.startswith("target_encoder.trunk.") for name in frozen)
    assert "target_encoder.reference" in frozen


def test_a_slow_target_encoder_moves_and_a_frozen_one_does_not(run_of: Callable[..., Run], checkpoints: Path) -> None:
    from archlab.interop.checkpoint import load_pretrained

    before = load_pretrained(checkpoints / "text").state_dict()
    for scale, moves in ((0.05, True), (0.0, False)):
        arm: Any = run_of("vljepa", scale).arm
        after = arm.target_encoder.trunk.model.state_dict()
        assert any(not torch.equal(value, before[name]) for name, value in after.items()) == moves


def test_a_run_can_be_asked_without_its_data(run_of: Callable[..., Run], setup: Setup) -> None:
    answerer = Answerer.open(run_of("vljepa").folder)
    assert answerer.encoder.digest == setup.encoder.digest
    images = setup.dataset["test"].images[:2]
    request = answerer.request(images, ["what is this"] * 2)
    expected = setup.features("test").read(np.arange(2))
    np.testing.assert_allclose(request.features.numpy(), expected, atol=0.02)
    assert isinstance(answerer.readout, EmbeddingReadout)
    assert len(answerer.readout.speak(request)) == 2
    vectors = answerer.readout.text_vectors(["red", "a blue square"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


def test_a_run_whose_parts_have_changed_is_refused(run_of: Callable[..., Run], checkpoints: Path) -> None:
    run = run_of("vljepa", 0.0)
    kept = shutil.copytree(checkpoints / "text", checkpoints / "kept")
    try:
        (checkpoints / "text" / "config_sentence_transformers.json").write_text("{}")
        with pytest.raises(UserError, match=r"target encoder: its files .+ are not those of the run"):
            Answerer.open(run.folder)
    finally:
        shutil.rmtree(checkpoints / "text")
        kept.rename(checkpoints / "text")
    bare = shutil.copytree(run.folder, checkpoints / "bare")
    (bare / "whitening.safetensors").unlink()
    with pytest.raises(UserError, match=r"whitening.safetensors: is missing"):
        Answerer.open(bare)


def test_an_interrupted_run_resumes_bit_for_bit(
    config: RunConfig, setup: Setup, run_of: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The frozen part is not in the training state either."""
    from archlab.train import run as module

    own = replace(config, vljepa=replace(config.vljepa, target_learning_rate_scale=0.0))
    calls = 0

    def interrupted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise RuntimeError("power cut")
        return batch(*arguments)

    batch = module.training_batch
    monkeypatch.setattr(module, "training_batch", interrupted)
    with pytest.raises(RuntimeError, match="power cut"):
        train_run(own, setup, tmp_path / "run", "cut")
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert not any(name.startswith("target_encoder.trunk.") for name in state["model"])
    monkeypatch.setattr(module, "training_batch", batch)
    resumed = train_run(own, setup, tmp_path / "run", "resumed")
    whole = run_of("vljepa", 0.0)
    expected = whole.arm.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.arm.state_dict().items())
