from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from archlab.config import EvaluationConfig, OptimizerConfig, RunConfig, load
from archlab.data.batch import Batch, Collator
from archlab.errors import UserError
from archlab.evaluate.measure import Items, Measurement, measure_vqa
from archlab.evaluate.retrieval import LinearMap
from archlab.objectives.classification import Classification
from archlab.objectives.embedding_prediction import EmbeddingPrediction
from archlab.objectives.next_token import NextToken
from archlab.train.checkpoint import load_checkpoint
from archlab.train.folder import check_folder
from archlab.train.run import (
    Run,
    build_objective,
    load_run,
    readout_of,
    retrieval_map,
    run_order,
    scored_steps,
    train_run,
    training_batch,
    validation_file,
)
from archlab.train.setup import Setup
from archlab.vl.arms import build_arm

ARMS: Any = pytest.mark.parametrize("arm", ["token", "vljepa", "supervised"])
BOTH: Any = pytest.mark.parametrize("arm", ["token", "vljepa"])


class Killed(Exception):
    """The process dies at once."""


@dataclass(frozen=True)
class Disturbed(Setup):
    """A setup whose training data are disturbed when they are asked for the nth time."""

    disturb: Callable[[], None] = lambda: None
    at: int = 0
    asked: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, setup: Setup, disturb: Callable[[], None], at: int) -> Disturbed:
        parts = (setup.config, setup.dataset, setup.tokenizer, setup.encoder, setup.meanings)
        return cls(*parts, disturb=disturb, at=at)

    def collator(self, split: str) -> Collator:
        if split == "train":
            self.asked.append(split)
            if len(self.asked) == self.at:
                self.disturb()
        return super().collator(split)


def kill() -> None:
    raise Killed


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def curve(run: Run) -> list[tuple[Any, ...]]:
    """The curve without the clock."""
    return [(point["step"], point["loss"], point["scores"]) for point in run.metrics["curve"]]


def assert_same(run: Run, other: Run) -> None:
    assert curve(run) == curve(other)
    weights = other.arm.state_dict()
    for name, tensor in run.arm.state_dict().items():
        assert torch.equal(weights[name], tensor), name
    for point in run.metrics["curve"]:
        ours, theirs = (Measurement.load(validation_file(one.folder, point["step"])) for one in (run, other))
        assert ours.answers == theirs.answers
        assert ours.means() == theirs.means() == point["scores"]


def say(run: Run, batch: Batch) -> Tensor:
    """What an arm says first of a batch."""
    arm: Any = run.arm
    with torch.no_grad():
        if run.config.arm == "token":
            return arm.logits(batch)
        return arm.embed(batch)[0] if run.config.arm == "vljepa" else arm.class_logits(batch)


@ARMS
def test_a_run_leaves_a_checkpoint_that_answers_the_same(
    tiny_run: Callable[[str], Run], tiny_setup: Setup, arm: Any
) -> None:
    run = tiny_run(arm)
    loaded = load_run(run.folder, tiny_setup)
    batch = tiny_setup.collator("test")(np.arange(5))
    assert torch.equal(say(loaded, batch), say(run, batch))
    assert loaded.config == run.config == load(run.folder / "config.yaml", RunConfig)
    assert loaded.metrics == json.loads((run.folder / "metrics.json").read_text())
    assert not loaded.arm.training
    names = {path.name for path in run.folder.iterdir()}
    assert names == {"config.yaml", "model.safetensors", "tokenizer.json", "metrics.json", "card.md", "validation"}
    untrained = build_arm(
        run.config, tiny_setup.encoder.width, tiny_setup.tokenizer.vocab_size, len(tiny_setup.answers)
    )
    assert not torch.equal(say(replace(run, arm=untrained), batch), say(run, batch))


@ARMS
def test_a_run_says_what_it_read_and_what_it_cost(tiny_run: Callable[[str], Run], tiny_setup: Setup, arm: Any) -> None:
    run = tiny_run(arm)
    metrics = run.metrics
    assert (metrics["steps"], metrics["samples"]) == (6, 48)
    assert metrics["seconds"] > 0
    assert metrics["order_digest"] == run_order(run.config, tiny_setup).digest()
    assert metrics["data_digest"] == tiny_setup.dataset.digest()
    assert metrics["features_digest"] == tiny_setup.features("train").digest
    card = (run.folder / "card.md").read_text()
    assert f"{arm} arm, seed 0" in card
    accuracy = metrics["curve"][-1]["scores"]["vqa/accuracy"]
    assert f"| vqa/accuracy | {accuracy:.4f} |" in card


@ARMS
def test_validation_is_scored_at_the_scored_steps(tiny_run: Callable[[str], Run], arm: Any) -> None:
    run = tiny_run(arm)
    assert [point["step"] for point in run.metrics["curve"]] == scored_steps(run.config) == [2, 6]
    for point in run.metrics["curve"]:
        measurement = Measurement.load(validation_file(run.folder, point["step"]))
        assert measurement.means() == point["scores"]
        retrieves = "retrieval/image_to_text_r1" in point["scores"]
        assert retrieves == ("caption/cider_d" in point["scores"]) == (arm != "supervised")
        closed = len(measurement.values["vqa/accuracy"])
        assert closed + len(measurement.values.get("classification/accuracy", [])) == run.config.evaluation.items


@ARMS
def test_the_last_point_of_the_curve_is_the_score_of_the_trained_arm_on_validation(
    tiny_run: Callable[[str], Run], tiny_setup: Setup, arm: Any
) -> None:
    run, result = tiny_run(arm), Measurement()
    collate = tiny_setup.collator("validation")
    items = Items.first(collate.split, run.config.evaluation.items)
    measure_vqa(result, readout_of(run.arm, tiny_setup), collate, items.vqa)
    scores = run.metrics["curve"][-1]["scores"]
    assert result.means() == {metric: scores[metric] for metric in result.means()}
    kept = Measurement.load(validation_file(run.folder, 6))
    assert kept.answers.items() >= result.answers.items()


@BOTH
@pytest.mark.parametrize("at", [1, 3, 6])
def test_an_interrupted_and_resumed_run_equals_an_uninterrupted_one(
    tiny_run: Callable[[str], Run], tiny_setup: Setup, tmp_path: Path, arm: Any, at: int
) -> None:
    whole, folder = tiny_run(arm), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train_run(whole.config, Disturbed.of(tiny_setup, interrupt, at), folder, "")
    assert (folder / "state.pt").exists()
    assert not (folder / "metrics.json").exists()
    resumed = train_run(whole.config, tiny_setup, folder, "")
    assert_same(resumed, whole)
    assert_same(load_run(folder, tiny_setup), whole)
    assert not (folder / "state.pt").exists()


@BOTH
def test_a_killed_run_resumes_from_its_last_save_to_the_same_end(
    tiny_run: Callable[[str], Run], tiny_setup: Setup, tmp_path: Path, arm: Any
) -> None:
    whole, folder = tiny_run(arm), tmp_path / "run"
    with pytest.raises(Killed):
        train_run(whole.config, Disturbed.of(tiny_setup, kill, {"token": 7, "vljepa": 6}[arm]), folder, "")
    again = Disturbed.of(tiny_setup, kill, 10**9)
    assert_same(train_run(whole.config, again, folder, ""), whole)
    # Saved at step 4: two batches were left, the last evaluation's probes, and the token arm's retrieval map.
    assert len(again.asked) == {"token": 4, "vljepa": 3}[arm]


def test_a_finished_run_is_opened_not_trained_again(
    tiny_run: Callable[[str], Run], tiny_setup: Setup, tmp_path: Path
) -> None:
    whole = tiny_run("vljepa")
    folder = shutil.copytree(whole.folder, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    idle = Disturbed.of(tiny_setup, kill, 1)
    assert_same(train_run(whole.config, idle, folder, ""), whole)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_the_same_configuration_gives_the_same_run_and_another_seed_another(
    tiny_run: Callable[[str], Run], tiny_setup: Setup, tmp_path: Path
) -> None:
    whole = tiny_run("vljepa")
    assert_same(train_run(whole.config, tiny_setup, tmp_path / "again", ""), whole)
    other = train_run(replace(whole.config, seed=1), tiny_setup, tmp_path / "other", "")
    assert other.metrics["order_digest"] != whole.metrics["order_digest"]
    assert curve(other) != curve(whole)


@pytest.mark.parametrize("change", ["seed", "steps", "blind"])
def test_a_folder_of_another_configuration_is_refused(
    tiny_run: Callable[[str], Run], tiny_setup: Setup, tmp_path: Path, change: str
) -> None:
    run = tiny_run("token")
    folder = shutil.copytree(run.folder, tmp_path / "run")
    other = {
        "seed": replace(run.config, seed=5),
        "steps": replace(run.config, optimizer=replace(run.config.optimizer, steps=7)),
        "blind": replace(run.config, blind=True),
    }[change]
    with pytest.raises(UserError, match=rf"output folder .*: holds a run with .*{change}=.*; name another with --out"):
        train_run(other, tiny_setup, folder, "")


def test_a_folder_from_before_a_key_was_there_has_its_default(
    tiny_run: Callable[[str], Run], tiny_setup: Setup, tmp_path: Path
) -> None:
    run = tiny_run("token")
    folder = shutil.copytree(run.folder, tmp_path / "run")
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    del saved["blind"], saved["optimizer"]["gradient_clip"]
    (folder / "config.yaml").write_text(yaml.safe_dump(saved))
    check_folder(folder, run.config)
    with pytest.raises(UserError, match="holds a run with blind=False, not True"):
        check_folder(folder, replace(run.config, blind=True))


@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_of_other_data_is_refused(
    tiny_run: Callable[[str], Run], tiny_setup: Setup, tmp_path: Path, finished: bool
) -> None:
    """The user's files changed under an unchanged configuration: old results would pass for new ones."""
    config, folder = tiny_run("token").config, tmp_path / "run"
    if finished:
        shutil.copytree(tiny_run("token").folder, folder)
    else:
        with pytest.raises(KeyboardInterrupt):
            train_run(config, Disturbed.of(tiny_setup, interrupt, 2), folder, "")
    changed = replace(tiny_setup.dataset["train"], digest="changed")
    dataset = replace(tiny_setup.dataset, splits=tiny_setup.dataset.splits | {"train": changed})
    with pytest.raises(UserError, match=r"other data.*; name another"):
        train_run(config, replace(tiny_setup, dataset=dataset), folder, "")


@BOTH
def test_training_lowers_the_loss(tiny_setup: Setup, tiny_config: RunConfig, tmp_path: Path, arm: Any) -> None:
    config = replace(
        tiny_config,
        arm=arm,
        optimizer=replace(tiny_config.optimizer, steps=40, learning_rate=0.01),
        evaluation=replace(tiny_config.evaluation, first_checkpoint=5, items=4),
    )
    losses = [point["loss"] for point in train_run(config, tiny_setup, tmp_path / "run", "").metrics["curve"]]
    assert losses[-1] < 0.9 * losses[0]


def test_the_size_of_the_decoder_changes_nothing_else(
    tiny_config: RunConfig, tiny_setup: Setup, tmp_path: Path
) -> None:
    """It learns from text alone, and its gradient is clipped apart: the rest is trained the same, bit for bit."""
    weights = []
    for prefix in (2, 5):
        own = replace(tiny_config.vljepa, decoder_prefix=prefix)
        optimizer = replace(tiny_config.optimizer, gradient_clip=0.1)
        config = replace(tiny_config, arm="vljepa", vljepa=own, optimizer=optimizer)
        weights.append(train_run(config, tiny_setup, tmp_path / str(prefix), "").arm.state_dict())
    shared = {name for name in weights[0] if not name.startswith("decoder.")}
    assert {name.split(".")[0] for name in shared} == {"backbone", "head", "target_encoder"}
    for name in shared:
        assert torch.equal(weights[0][name], weights[1][name]), name


def test_the_target_encoder_learns_at_its_own_rate(tiny_config: RunConfig, tiny_setup: Setup, tmp_path: Path) -> None:
    frozen = replace(tiny_config, arm="vljepa", vljepa=replace(tiny_config.vljepa, target_learning_rate_scale=0.0))
    run = train_run(frozen, tiny_setup, tmp_path / "run", "")
    start = build_arm(frozen, tiny_setup.encoder.width, tiny_setup.tokenizer.vocab_size, 1).state_dict()
    for name, tensor in run.arm.state_dict().items():
        assert torch.equal(tensor, start[name]) == name.startswith("target_encoder."), name


def shown_images(setup: Setup, batch: Batch) -> list[list[int]]:
    """Images whose features, in any view, are those of each sample."""
    array = setup.features("train").array
    return [
        np.flatnonzero((array == sample.numpy().astype(np.float16)).all((2, 3)).any(0)).tolist()
        for sample in batch.features
    ]


@pytest.mark.parametrize("batch_size", [1, 8, 60])
def test_a_blind_run_never_sees_the_right_image_and_all_else_is_the_same(
    tiny_config: RunConfig, tiny_setup: Setup, batch_size: int
) -> None:
    """Not even where neighbours in the batch ask about one image."""
    config = replace(tiny_config, optimizer=replace(tiny_config.optimizer, steps=20, batch_size=batch_size))
    order = run_order(config, tiny_setup)
    examples = tiny_setup.dataset["train"].examples
    seen: dict[int, set[int]] = {}
    for step in range(20):
        plain = training_batch(config, tiny_setup, order, step)
        blind = training_batch(replace(config, blind=True), tiny_setup, order, step)
        for row, shown, right in zip(
            order.rows[step], shown_images(tiny_setup, blind), shown_images(tiny_setup, plain), strict=True
        ):
            assert examples[row].image in right
            assert examples[row].image not in shown
            seen.setdefault(examples[row].image, set()).update(shown)
        for name in ("query", "query_mask", "target", "target_mask", "meaning", "text"):
            assert torch.equal(getattr(blind, name), getattr(plain, name)), name
        again = training_batch(replace(config, blind=True), tiny_setup, order, step)
        assert torch.equal(again.features, blind.features)
    if batch_size == 60:  # an image has many stand-ins: a single one could be learned by heart
        assert np.mean([len(images) for images in seen.values()]) > 5


def test_a_blind_run_is_another_run(tiny_run: Callable[[str], Run], tiny_setup: Setup, tmp_path: Path) -> None:
    seeing = tiny_run("token")
    blind = train_run(replace(seeing.config, blind=True), tiny_setup, tmp_path / "run", "")
    assert blind.metrics["order_digest"] == seeing.metrics["order_digest"]
    assert not torch.equal(blind.arm.backbone.visual_projection.weight, seeing.arm.backbone.visual_projection.weight)


def test_batches_use_the_orders_forms_and_views(tiny_config: RunConfig, tiny_setup: Setup) -> None:
    order, collate = run_order(tiny_config, tiny_setup), tiny_setup.collator("train")
    texts: set[bool] = set()
    for step in range(6):
        batch = training_batch(tiny_config, tiny_setup, order, step)
        for sample, row in enumerate(order.rows[step]):
            example = collate.split.examples[row]
            assert batch.ids[sample] == example.id
            for ids, forms, draws in (
                (batch.query, example.queries, order.query_forms),
                (batch.target, example.targets, order.target_forms),
            ):
                wanted = forms[draws[step, sample] % len(forms)]
                assert tiny_setup.tokenizer.decode(ids[sample].tolist()) == wanted
                texts.add(wanted == forms[0])
            view = tiny_setup.features("train").read(np.array([example.image]), np.array([order.views[step, sample]]))
            np.testing.assert_array_equal(batch.features[sample], view[0])
    assert texts == {True, False}


def test_the_order_follows_the_seed_and_not_the_arm(tiny_config: RunConfig, tiny_setup: Setup) -> None:
    digests = {
        (arm, seed): run_order(replace(tiny_config, arm=arm, seed=seed), tiny_setup).digest()  # type: ignore[arg-type]
        for arm in ("token", "vljepa", "supervised")
        for seed in (0, 1)
    }
    for seed in (0, 1):
        assert digests["token", seed] == digests["vljepa", seed] != digests["supervised", seed]
    assert digests["token", 0] != digests["token", 1]
    blind = run_order(replace(tiny_config, blind=True), tiny_setup)
    assert blind.digest() == digests["vljepa", 0]
    supervised = run_order(replace(tiny_config, arm="supervised"), tiny_setup)
    examples = tiny_setup.dataset["train"].examples
    assert {examples[row].task for row in supervised.rows.ravel()} == {"vqa"}


@given(st.integers(1, 5000), st.integers(1, 200), st.integers(1, 12))
def test_scored_steps_are_log_spaced_and_end_at_the_last(steps: int, first: int, count: int) -> None:
    config = RunConfig(
        optimizer=OptimizerConfig(steps=steps),
        evaluation=EvaluationConfig(first_checkpoint=first, checkpoints=count),
    )
    scored = scored_steps(config)
    assert scored == sorted(set(scored))
    assert scored[-1] == steps
    assert len(scored) <= count
    if count > 1:
        first = min(first, steps)
        assert scored[0] == first
        if len(scored) == count:
            ratio = (steps / first) ** (1 / (count - 1))
            wanted = [first * ratio**i for i in range(count)]
            assert all(abs(step - exact) <= 0.5 + 1e-6 for step, exact in zip(scored, wanted, strict=True))


def test_scored_steps_of_the_defaults() -> None:
    assert scored_steps(RunConfig()) == [25, 50, 100, 200, 400]


@pytest.mark.parametrize(("arm", "kind"), [("token", NextToken), ("vljepa", EmbeddingPrediction)])
def test_every_arm_has_its_objective(arm: Any, kind: type) -> None:
    config = RunConfig(arm=arm)
    config = replace(config, vljepa=replace(config.vljepa, loss=replace(config.vljepa.loss, positives="none")))
    objective = build_objective(config)
    assert isinstance(objective, kind)
    if isinstance(objective, EmbeddingPrediction):
        assert objective.prediction.positives == "none"
    assert isinstance(build_objective(RunConfig(arm="supervised")), Classification)


def test_only_the_token_arm_needs_a_map_to_retrieve(tiny_run: Callable[[str], Run], tiny_setup: Setup) -> None:
    config = tiny_setup.config
    token, vljepa = (readout_of(tiny_run(arm).arm, tiny_setup) for arm in ("token", "vljepa"))
    assert isinstance(retrieval_map(token, tiny_setup, config), LinearMap)  # type: ignore[arg-type]
    assert retrieval_map(vljepa, tiny_setup, config) is None  # type: ignore[arg-type]


def test_a_run_whose_weights_were_exchanged_is_refused(
    tiny_run: Callable[[str], Run], tiny_setup: Setup, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_run("token").folder, tmp_path / "run")
    shutil.copy(tiny_run("supervised").folder / "model.safetensors", folder)
    with pytest.raises(UserError, match=r"config.yaml is not the one"):
        load_run(folder, tiny_setup)
    assert load_checkpoint(tiny_run("token").folder, RunConfig).tokenizer is not None


def test_what_an_objective_draws_depends_on_the_seed_and_not_on_the_callers_random_numbers(
    tiny_config: RunConfig, tiny_setup: Setup, tmp_path: Path
) -> None:
    config = replace(tiny_config, vljepa=replace(tiny_config.vljepa, objective="sigreg"))
    runs = []
    for number in range(2):
        torch.manual_seed(number)
        before = torch.get_rng_state()
        runs.append(train_run(config, tiny_setup, tmp_path / str(number), ""))
        assert torch.equal(torch.get_rng_state(), before)
    assert_same(*runs)
