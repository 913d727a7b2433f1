"""The trunk over the last layers of a LLaMA: its states, its weights in both arms, and what cannot be one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.checkpoints import WORDS, save_language_model, save_twin

from archlab.compare.budgets import apply_budget
from archlab.compare.cost import parameter_counts
from archlab.compare.flops import BatchShape, Sizes, counted_flops, training_flops
from archlab.config import LanguageConfig, RunConfig, build
from archlab.data.batch import Batch
from archlab.errors import UserError
from archlab.interop.checkpoint import load_pretrained
from archlab.layers import masks
from archlab.train.run import build_objective
from archlab.train.start import begin
from archlab.vl.arms import build_arm
from archlab.vl.backbone import positions_of
from archlab.vl.language import LanguageBackbone

FEATURES = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("llama")
    save_language_model(place, WORDS)
    return place


@pytest.fixture(scope="module")
def llama(folder: Path) -> Any:
    return load_pretrained(folder)


def run_of(folder: Path, layers: int = 2, **options: Any) -> RunConfig:
    sizes = {"embedding": 12, "decoder": {"width": 16, "depth": 1, "heads": 2, "feed_forward": 32}}
    raw = {"language": {"weights": str(folder), "layers": layers}, "vljepa": sizes}
    return build(RunConfig, raw | options)


def arm_of(run: RunConfig) -> Any:
    arm = build_arm(run, FEATURES, 280, 5)
    begin(arm, run, None)  # type: ignore[arg-type]  # only a finished run to begin with needs the setup
    return arm


def batch_of(vocabulary: int = 280) -> Batch:
    generator = torch.Generator().manual_seed(0)
    query, target = (torch.randint(3, vocabulary, (4, length), generator=generator) for length in (5, 6))
    features = torch.randn(4, 2, FEATURES, generator=generator)
    real, order = torch.ones(4, 5, dtype=torch.bool), torch.arange(4)
    return Batch(features, query, real, target, torch.ones(4, 6, dtype=torch.bool), order, order, list("abcd"))


@torch.no_grad()
def test_all_layers_of_it_are_the_language_model(folder: Path, llama: Any) -> None:
    """Of text alone, causally: the logits of the checkpoint."""
    backbone = arm_of(run_of(folder, layers=3)).backbone
    tokens = torch.randint(0, 280, (2, 7), generator=torch.Generator().manual_seed(0))
    embeddings, mask = backbone.embed(torch.zeros(2, 0, FEATURES), tokens, torch.ones(2, 7, dtype=torch.bool))
    positions = positions_of(mask)
    states = backbone.trunk(embeddings, mask=masks.causal(positions, positions), positions=positions)
    torch.testing.assert_close(backbone.token_embedding.logits(states), llama(tokens), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_last_layers_are_taken(folder: Path, llama: Any) -> None:
    backbone = arm_of(run_of(folder, layers=2)).backbone
    assert backbone.trunk.depth == 2
    for ours, theirs in zip(backbone.trunk.blocks, llama.blocks[1:], strict=True):
        assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())


def test_both_arms_begin_with_the_same_weights(folder: Path) -> None:
    token, vljepa = (arm_of(replace(run_of(folder), arm=arm)).backbone.state_dict() for arm in ("token", "vljepa"))
    assert token.keys() == vljepa.keys()
    assert all(torch.equal(value, vljepa[name]) for name, value in token.items())


@torch.no_grad()
def test_visual_tokens_begin_as_large_as_words(folder: Path) -> None:
    backbone = arm_of(run_of(folder)).backbone
    words = torch.arange(280)[None].expand(64, -1)
    embeddings, _ = backbone.embed(torch.randn(64, 8, FEATURES), words, torch.ones_like(words).bool())
    assert 0.8 < embeddings[:, :8].std() / embeddings[:, 8:].std() < 1.25


@pytest.mark.parametrize("arm", ["token", "vljepa", "supervised"])
def test_everything_but_the_token_table_learns(arm: Any, folder: Path) -> None:
    run = replace(run_of(folder), arm=arm)
    model: Any = arm_of(run)
    build_objective(run)(model, batch_of()).loss.backward()
    learning = {name for name, p in model.backbone.named_parameters() if p.grad is not None and p.grad.abs().sum()}
    assert {n for n, _ in model.backbone.named_parameters()} - learning == {"token_embedding.weight"}


@pytest.mark.parametrize("arm", ["token", "vljepa", "supervised"])
def test_a_training_step_costs_what_the_formula_says(arm: Any, folder: Path) -> None:
    run = replace(run_of(folder), arm=arm)
    model, objective = arm_of(run), build_objective(run)
    counted = counted_flops(lambda: objective(model, batch_of()).loss.backward())
    assert counted == sum(training_flops(run, Sizes(FEATURES, 280, 5), BatchShape(4, 2, 5, 6)).values())


def test_under_the_papers_budget_the_token_arm_has_twice_the_layers(folder: Path) -> None:
    save = run_of(folder, layers=1)
    budget = apply_budget("paper", save, Sizes(FEATURES, 280, 5))
    assert (budget.token.language.layers, budget.vljepa.language.layers) == (2, 1)
    assert budget.may_differ == {"arm", "optimizer.learning_rate", "language.layers"}
    with pytest.raises(UserError, match="a pretrained trunk cannot be resized"):
        apply_budget("equal-params", save, Sizes(FEATURES, 280, 5))


def test_the_shape_of_a_published_one_needs_no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    with torch.device("meta"):
        backbone = LanguageBackbone(LanguageConfig(weights="meta-llama/Llama-3.2-1B"), 1024, 128_000)
    layers = sum(parameter.numel() for parameter in backbone.trunk.parameters())
    assert layers == 8 * (2 * 2048 * (2048 + 512) + 3 * 2048 * 8192 + 2 * 2048) + 2048


@pytest.mark.parametrize(
    ("options", "layers", "message"),
    [
        ({}, 4, "language.layers=4: .+ has 3 layers; take fewer"),
        ({"tied": False}, 2, "has an output layer of its own"),
        ({"vocab_size": 270}, 2, "the tokenizer has 280 tokens, its table 270"),
    ],
)
def test_a_language_model_that_does_not_fit_is_refused(
    options: dict[str, Any], layers: int, message: str, tmp_path: Path
) -> None:
    save_language_model(tmp_path, WORDS, **options)
    with pytest.raises(UserError, match=message):
        build_arm(run_of(tmp_path, layers), FEATURES, 280, 5)


def test_another_family_is_refused(tmp_path: Path) -> None:
    save_twin("gpt2", tmp_path)
    with pytest.raises(UserError, match=r"language.weights=.+: is a gpt2; give a LLaMA"):
        build_arm(run_of(tmp_path), FEATURES, 50, 5)


@pytest.mark.parametrize(
    "override",
    [
        "trunk.depth=3",
        "tokenizer.pretrained=x",
        "token.architecture=encoder-decoder",
        "vljepa.predictor.kind=none",
    ],
)
def test_what_it_settles_cannot_be_set_beside_it(override: str, folder: Path) -> None:
    with pytest.raises(UserError, match=r"language.weights settles it; leave it at"):
        build(RunConfig, {"language": {"weights": str(folder)}}, [override])


def test_parameters_are_counted_with_the_frozen_table(folder: Path) -> None:
    counts = parameter_counts(arm_of(run_of(folder)))
    arm = arm_of(run_of(folder))
    assert counts["total"] - counts["trainable"] == arm.backbone.token_embedding.weight.numel()
