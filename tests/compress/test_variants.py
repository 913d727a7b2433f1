"""Every variant is an ordinary run that can be asked, and says what it is and what it was made of."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.compress.conftest import VARIANTS

from archlab.compress.recipe import Variant
from archlab.compress.variants import Parent, copy_parent, inherit, make_variant, open_parent, variant_config
from archlab.config import PredictorConfig, RunConfig
from archlab.errors import UserError
from archlab.evaluate.command import evaluate_run
from archlab.train.checkpoint import load_checkpoint, load_state
from archlab.train.folder import write_text
from archlab.train.run import Run, train_run
from archlab.train.setup import Setup
from archlab.vl.answering import Answerer
from archlab.vl.arms import build_arm

ARMS = pytest.mark.parametrize("arm", ["token", "vljepa"])
EACH = pytest.mark.parametrize("name", VARIANTS)
SAID = {
    "rounded": "weights in bfloat16",
    "sparse": "magnitude pruning, 50% of the linear layers' entries are zero",
    "narrow": "structured pruning, 1 heads and 13 channels left in each block",
    "student": "distilled into a trunk of 1 blocks, width 16",
}


def answers(folder: Path, setup: Setup) -> np.ndarray:
    """Scores of candidates on a few images."""
    answerer = Answerer.open(folder)
    request = answerer.request(setup.dataset["test"].images[:4], ["what colour is it?"] * 4)
    return next(iter(answerer.readout.choose(request, ["red", "a large green circle"]).values()))


@ARMS
@EACH
def test_config_and_card_say_variant_parent_and_recipe(
    runs: Path, parent: Callable[[str], Parent], arm: str, name: str
) -> None:
    checkpoint, variant = load_checkpoint(runs / f"{arm}-{name}", RunConfig), VARIANTS[name]
    made = checkpoint.config.compression
    assert (made.method, made.parent) == (variant.method, parent(arm).digest)
    assert made.recipe == variant.relevant()
    card = checkpoint.card()
    assert f"**Variant:** {SAID[name]}." in card
    assert parent(arm).digest in card
    assert f"| method | {variant.method} |" in card
    assert all(f"| {key} |" in card for key in made.recipe if key != "trunk")
    assert "| validation metric | parent | this variant |" in card
    assert "vqa/accuracy" in card


@ARMS
@EACH
def test_the_embeddings_of_a_variant_that_was_trained_are_watched(runs: Path, arm: str, name: str) -> None:
    metrics, trained = load_checkpoint(runs / f"{arm}-{name}", RunConfig).metrics, VARIANTS[name].steps
    assert ("monitor" in metrics) == (arm == "vljepa" and trained > 0)
    if "monitor" in metrics:
        last = metrics["monitor"]["points"][-1]
        assert last["step"] == trained
        assert (metrics["monitor"]["alarm"] == last["verdict"]) == last["alarm"]
        card = load_checkpoint(runs / f"{arm}-{name}", RunConfig).card()
        assert (f"**Alarm:** {last['verdict']}." in card) == last["alarm"]


@ARMS
@EACH
def test_a_variant_is_asked_like_any_run(runs: Path, tiny_setup: Setup, arm: str, name: str) -> None:
    found, of_parent = (answers(runs / f"{arm}-{one}", tiny_setup) for one in (name, "float32"))
    assert np.isfinite(found).all()
    assert found.dtype == np.float32
    assert not np.array_equal(found, of_parent)
    answerer = Answerer.open(runs / f"{arm}-{name}")
    request = answerer.request(tiny_setup.dataset["test"].images[:2], ["", "what is it?"])
    assert len(answerer.readout.speak(request)) == 2
    assert answerer.readout.image_vectors(request).dtype == answerer.readout.text_vectors(["red"]).dtype == np.float32


@ARMS
def test_bfloat16_halves_the_file_and_changes_answers_by_rounding_alone(
    runs: Path, tiny_setup: Setup, arm: str
) -> None:
    sizes = [(runs / f"{arm}-{name}" / "model.safetensors").stat().st_size for name in ("rounded", "float32")]
    assert 0.4 < sizes[0] / sizes[1] < 0.7  # names and shapes of so few weights take their part
    found, exact = (answers(runs / f"{arm}-{name}", tiny_setup) for name in ("rounded", "float32"))
    np.testing.assert_allclose(found, exact, rtol=0.05, atol=0.1)
    arm_of: Any = Answerer.open(runs / f"{arm}-rounded").readout.arm
    assert {parameter.dtype for parameter in arm_of.parameters()} == {torch.bfloat16}


@ARMS
def test_structured_pruning_and_distillation_leave_fewer_weights_and_magnitude_pruning_zeros(
    runs: Path, parent: Callable[[str], Parent], arm: str
) -> None:
    whole = sum(weight.numel() for weight in parent(arm).arm().parameters())
    metrics = {name: load_checkpoint(runs / f"{arm}-{name}", RunConfig).metrics for name in VARIANTS}
    assert metrics["narrow"]["parameters"] < whole
    assert metrics["student"]["parameters"] < whole
    assert metrics["sparse"]["parameters"] == metrics["rounded"]["parameters"] == whole
    assert metrics["sparse"]["zeros"] > 0.15 * whole
    assert metrics["narrow"]["zeros"] == 0


def test_a_students_embedding_space_is_its_teachers(runs: Path) -> None:
    texts = ["red", "two large blue squares", "no"]
    student, teacher = (Answerer.open(runs / f"vljepa-{name}").readout for name in ("student", "float32"))
    np.testing.assert_array_equal(student.text_vectors(texts), teacher.text_vectors(texts))


def test_a_student_begins_with_evenly_spaced_blocks_of_its_teacher(tiny_config: RunConfig) -> None:
    def made(seed: int, **trunk: int) -> Any:
        config = replace(tiny_config, arm="token", seed=seed, trunk=replace(tiny_config.trunk, **trunk))
        return build_arm(config, 12, 40, 0)

    teacher, student = made(0, depth=4), made(1, depth=2)
    inherit(student, teacher)
    for ours, theirs in ((0, 1), (1, 3)):
        expected = teacher.backbone.trunk.blocks[theirs].state_dict()
        for name, tensor in student.backbone.trunk.blocks[ours].state_dict().items():
            assert torch.equal(tensor, expected[name])
    assert torch.equal(student.backbone.token_embedding.weight, teacher.backbone.token_embedding.weight)
    narrower = made(1, width=8)
    before = narrower.backbone.visual_projection.weight.clone()
    inherit(narrower, teacher)
    assert torch.equal(narrower.backbone.visual_projection.weight, before)


def test_the_run_itself_lies_beside_its_variants_unchanged_and_says_that_it_is_none(
    runs: Path, parent: Callable[[str], Parent], tmp_path: Path
) -> None:
    beside = load_checkpoint(runs / "vljepa-float32", RunConfig)
    assert beside.digest() == parent("vljepa").digest
    assert beside.card().count("**Variant:** float32, as it was trained") == 1
    with pytest.raises(UserError, match="holds another run than"):
        copy_parent(parent("token"), runs / "vljepa-float32")
    old = shutil.copytree(parent("token").checkpoint.folder, tmp_path / "old")
    write_text(old / "card.md", "# token arm\n")  # of before cards said it
    checkpoint = load_checkpoint(old, RunConfig)
    copy_parent(replace(parent("token"), checkpoint=checkpoint), tmp_path / "runs" / "token-float32")
    assert "**Variant:** float32" in (tmp_path / "runs" / "token-float32" / "card.md").read_text()


def test_evaluate_measures_a_variant(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    evaluate_run(runs / "vljepa-narrow", "validation", None, out)
    assert "vqa/accuracy" in out.read_text()


def test_an_interrupted_variant_resumes_to_the_same_weights(
    runs: Path, parent: Callable[[str], Parent], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from archlab.compress import variants as module

    copy_parent(parent("token"), tmp_path / "token-float32")
    folder, batch = tmp_path / "token-sparse", module.training_batch

    def stop(config: RunConfig, setup: Setup, order: Any, step: int) -> Any:
        if step == 1:
            raise KeyboardInterrupt
        return batch(config, setup, order, step)

    config = variant_config(parent("token"), VARIANTS["sparse"])
    every = replace(parent("token").config, evaluation=replace(config.evaluation, resume_every=1))
    often = replace(parent("token"), checkpoint=replace(parent("token").checkpoint, config=every))
    monkeypatch.setattr(module, "training_batch", stop)
    with pytest.raises(KeyboardInterrupt):
        make_variant(often, "sparse", VARIANTS["sparse"], folder)
    assert (folder / "state.pt").exists()
    monkeypatch.undo()
    make_variant(often, "sparse", VARIANTS["sparse"], folder)
    assert not (folder / "state.pt").exists()
    resumed, whole = (load_checkpoint(one, RunConfig) for one in (folder, runs / "token-sparse"))
    models = []
    for checkpoint in (resumed, whole):
        model = parent("token").arm()
        checkpoint.load_into(model)
        models.append(model.state_dict())
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    assert load_state(folder / "state.pt", "nobody") is None
    before = (folder / "model.safetensors").stat().st_mtime_ns
    make_variant(often, "sparse", VARIANTS["sparse"], folder)
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_what_cannot_be_compressed_is_refused(
    runs: Path, parent: Callable[[str], Parent], tiny_run: Callable[[str], Run], tiny_setup: Setup, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="is a structured variant already"):
        open_parent(runs / "token-narrow")
    with pytest.raises(UserError, match="the supervised arm is not compressed"):
        open_parent(tiny_run("supervised").folder)
    with pytest.raises(UserError, match="holds a run with compression"):
        make_variant(parent("token"), "sparse", replace(VARIANTS["sparse"], sparsity=0.6), runs / "token-sparse")
    with pytest.raises(UserError, match="is made by 'archlab compress', not trained"):
        train_run(load_checkpoint(runs / "token-narrow", RunConfig).config, tiny_setup, tmp_path / "run", "run")
    own = parent("vljepa").config
    blind = replace(own, vljepa=replace(own.vljepa, predictor=PredictorConfig(kind="none")))
    unread = replace(parent("vljepa"), checkpoint=replace(parent("vljepa").checkpoint, config=blind))
    with pytest.raises(UserError, match="predictor does not use the trunk"):
        variant_config(unread, Variant(method="structured"))
