"""Whole comparisons of tiny arms in this process: nothing is spawned, and no memory is measured."""

from __future__ import annotations

import base64
import html
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.clips import write_clip

from archlab.compare import experiment, memory
from archlab.compare import formatting as show
from archlab.compare.assemble import _untested
from archlab.compare.experiment import batch_shapes, primary, run_compare
from archlab.compare.flops import BatchShape
from archlab.compare.publish import publish
from archlab.compare.report import render_report
from archlab.compare.scores import load_results
from archlab.config import CompareConfig, DataConfig, PairsData, RunConfig, load
from archlab.data.features import FeatureStore
from archlab.errors import UserError
from archlab.evaluate.measure import OPEN_VOCABULARY
from archlab.train.run import run_order, training_batch
from archlab.train.setup import Setup
from archlab.vl.answering import Answerer

Compare = Callable[..., dict[str, Any]]


@pytest.fixture
def compare(tiny_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compare:
    """`compare(run, budget=...)`: the results of a comparison, written to `tmp_path / "out"`."""

    def no_memory(*_: object) -> dict[str, Any]:
        return {"peak_memory_mib": 1.0, "start_memory_mib": 1.0, "gpu_memory": "not measured"}

    monkeypatch.setattr(experiment, "train_all", lambda *_, **__: None)  # what is not trained yet is trained here
    monkeypatch.setattr(memory, "peak_memory_of", no_memory)

    def run(run: RunConfig = tiny_config, out: Path = tmp_path / "out", **changes: Any) -> dict[str, Any]:
        config = CompareConfig(
            run=run, test_items=12, pmi_gallery=4, bootstrap_samples=100, latency_batches=[1], latency_requests=1,
            **changes,
        )  # fmt: skip
        run_compare(config, out, "tiny")
        found: dict[str, Any] = json.loads((out / "results.json").read_text(encoding="utf-8"))
        return found

    return run


def folder_of(folder: Path, texts: Mapping[str, str], images: int = 12) -> DataConfig:
    """Pictures of one colour with captions ("c"), questions ("q") or both ("cq"), as `texts` says for each split."""
    folder.mkdir()
    generator, lines = np.random.default_rng(0), []
    for split, kinds in texts.items():
        for number in range(images):
            shade = int(generator.integers(0, 256))
            row: dict[str, str] = {"file_name": f"{split}-{number}.png", "split": split}
            Image.new("RGB", (32, 32), (shade, number * 20 % 256, len(lines) % 256)).save(folder / row["file_name"])
            if "c" in kinds:
                row["text"] = f"shade {shade} and number {number}"
            if "q" in kinds:
                row |= {"question": "is it bright", "answer": "yes" if shade > 127 else "no"}
            lines.append(json.dumps(row))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return DataConfig(source=str(folder), pairs=PairsData())


@pytest.mark.parametrize(
    ("budget", "differs"),
    [
        ("paper", {"trunk.depth"}),
        pytest.param("equal-params", {"trunk.feed_forward"}, marks=pytest.mark.slow),
        ("equal-flops", {"optimizer.steps"}),
    ],
)
def test_every_budget_runs_to_a_report_and_differs_in_what_it_declares(
    compare: Compare, tmp_path: Path, budget: str, differs: set[str]
) -> None:
    results = compare(budget=budget, learning_rates=[1e-3, 2e-3], sweep_steps=2)
    found = results["budget"]["differs"].keys()
    assert {"arm"} | differs <= found <= set(results["budget"]["may_differ"])
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert f"Budget “{budget}”" in page
    assert page == render_report(load_results(tmp_path / "out" / "results.json"))  # nothing that the file does not hold
    token, vljepa = (results["arms"][arm]["training"] for arm in ("token", "vljepa"))
    if budget == "equal-flops":
        assert f"{token['steps']} steps of token and {vljepa['steps']} steps of VL-JEPA" in page
        assert token["flops"] == pytest.approx(vljepa["flops"], rel=0.25)  # half a step of few


def test_arms_without_a_common_checkpoint_have_no_paired_curve(compare: Compare, tiny_config: RunConfig) -> None:
    late = replace(tiny_config, evaluation=replace(tiny_config.evaluation, checkpoints=1))
    results = compare(late, budget="equal-flops")
    assert set(results["paired"]["curves"].values()) == {None}


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        ({"train": "q", "validation": "q", "test": "q"}, "no captions"),
        ({"train": "cq", "validation": "q", "test": "cq"}, "none in validation"),
        ({"train": "q", "validation": "cq", "test": "cq"}, "none in train"),
        ({"train": "cq", "validation": "cq", "test": "q"}, "test split has no captions"),
    ],
)
def test_retrieval_without_the_captions_it_needs_is_untested_with_the_reason(
    compare: Compare, tiny_config: RunConfig, tmp_path: Path, texts: dict[str, str], reason: str
) -> None:
    results = compare(replace(tiny_config, data=folder_of(tmp_path / "data", texts)))
    assert reason in results["untested"]["retrieval"]
    token, vljepa = (results["arms"][arm]["test"]["test"] for arm in ("token", "vljepa"))
    assert "vqa/accuracy" in token
    assert "retrieval/image_to_text_r1" not in token
    assert ("retrieval/image_to_text_r1" in vljepa) == ("c" in texts["test"])
    page = html.unescape((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert f"retrieval: {results['untested']['retrieval']}" in page


@pytest.mark.parametrize(
    ("texts", "images", "message"),
    [
        ({"train": "c", "validation": "c", "test": "q"}, 12, r"its test split has no captions, and no questions while"),
        ({"train": "c", "validation": "q", "test": "c"}, 12, r"its validation split has no captions, and no questions"),
    ],
)
def test_data_that_could_not_be_scored_are_refused_before_anything_is_trained(
    compare: Compare, tiny_config: RunConfig, tmp_path: Path, texts: dict[str, str], images: int, message: str
) -> None:
    data = folder_of(tmp_path / "data", texts, images)
    with pytest.raises(UserError, match=message):
        compare(replace(tiny_config, data=data))
    assert not (tmp_path / "out").exists()


def test_a_single_test_image_is_refused_before_anything_is_trained(
    compare: Compare, tiny_config: RunConfig, tmp_path: Path
) -> None:
    data = folder_of(tmp_path / "data", {"train": "c"}, images=14)  # a tenth of fourteen is one
    with pytest.raises(UserError, match=r"its test split has a single image, and the shuffled-image control needs"):
        compare(replace(tiny_config, data=data))
    assert not (tmp_path / "out").exists()


def test_a_broken_image_is_refused_before_a_folder_is_made_that_the_remedy_would_not_fit(
    compare: Compare, tiny_config: RunConfig, tmp_path: Path
) -> None:
    data = folder_of(tmp_path / "data", {"train": "c", "validation": "c", "test": "c"})
    broken = tmp_path / "data" / "test-3.png"
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    with pytest.raises(UserError, match=r"test-3.png: truncated or damaged.*on_error=skip"):
        compare(replace(tiny_config, data=data))
    results = compare(replace(tiny_config, data=replace(data, pairs=PairsData(on_error="skip"))))
    assert len(results["data"]["skipped"]) == 1


def test_videos_of_scenes_are_compared_from_the_configuration_to_the_report(
    compare: Compare, tiny_config: RunConfig, tmp_path: Path
) -> None:
    moving = replace(tiny_config, data=replace(tiny_config.data, frames=6))
    results = compare(moving)
    for arm in results["arms"].values():
        assert {"vqa/motion", "vqa/event", "caption/slots", "retrieval/image_to_text_r1"} <= arm["test"]["test"].keys()
        assert {"test_combinations", "test_backgrounds", "test_forms"} <= arm["test"].keys()
        assert arm["inference"]["choose"]["1"]["p50_ms"] > 0
    assert {"shuffled_image", "no_query"} <= results["controls"].keys()
    assert results["data"]["paraphrases"] == moving.data.scenes.paraphrases
    with Image.open(BytesIO(base64.b64decode(results["examples"][0]["image_png_base64"]))) as shown:
        assert getattr(shown, "n_frames", 1) > 1  # it moves
    features = Setup.prepare(moving).features("train")
    assert features.array.shape[2] == 6 * 4
    answerer = Answerer.open(tmp_path / "out" / "runs" / "vljepa-0")
    assert answerer.encoder.clip_frames == 6
    with pytest.raises(UserError, match=r"end_to_end_epochs=1: trains a network of images; .+ run\.data\.frames=6"):
        compare(moving, end_to_end_epochs=1)


def test_clips_of_a_folder_are_compared(compare: Compare, tiny_config: RunConfig, tmp_path: Path) -> None:
    generator, lines = np.random.default_rng(0), []
    for number in range(14):
        shade, rises = int(generator.integers(0, 100)), bool(number % 2)
        steps = shade + 20 * np.arange(6, dtype=np.uint8)[:: 1 if rises else -1]
        write_clip(tmp_path / f"{number}.mp4", np.broadcast_to(steps[:, None, None, None], (6, 32, 32, 3)).copy())
        row = {"file_name": f"{number}.mp4", "text": f"clip {number}", "question": "what happens"}
        lines.append(json.dumps(row | {"answer": "it gets brighter" if rises else "it gets darker"}))
    (tmp_path / "0.mp4").write_bytes(b"no clip")
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    data = DataConfig(source=str(tmp_path), frames=4, pairs=PairsData(on_error="skip", validation_fraction=0.2))
    data = replace(data, pairs=replace(data.pairs, test_fraction=0.2))
    results = compare(replace(tiny_config, data=data), out=tmp_path.parent / "compared")
    skipped = results["data"]["skipped"]
    assert skipped  # a line for its caption and one for its question
    assert all(line.startswith("metadata.jsonl, line 1: clip 0.mp4: is truncated, or none of") for line in skipped)
    assert "vqa/accuracy" in results["arms"]["token"]["test"]["test"]


def test_a_damaged_file_of_a_comparison_is_named_with_what_to_remove(
    compare: Compare, tiny_config: RunConfig, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    scores = compare()["arms"]["vljepa"]["test"]
    run = out / "runs" / "vljepa-0"
    curve = sorted((run / "validation").iterdir())[0]
    # In the order in which they are read: each call goes on to the next.
    for path in (
        out / "runs" / "token-0" / "test" / "no_query.json",
        out / "inference.json",
        out / "memory.json",
        curve,
    ):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        remedy = str(run) if path == curve else "it"
        with pytest.raises(UserError) as caught:
            compare()
        assert str(caught.value) == f"{path}: is damaged; remove {remedy} and run the same command again"
        path.unlink()
    shutil.rmtree(run)
    assert compare()["arms"]["vljepa"]["test"] == scores


def test_shapes_of_batches_are_those_of_training_and_need_no_features(
    tiny_config: RunConfig, tiny_setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = run_order(tiny_config, tiny_setup)
    batches = [training_batch(tiny_config, tiny_setup, order, step) for step in range(tiny_config.optimizer.steps)]
    monkeypatch.setattr(FeatureStore, "read", None)
    assert batch_shapes(tiny_config, tiny_setup) == [
        BatchShape(*batch.features.shape[:2], batch.query.shape[1], batch.target.shape[1]) for batch in batches
    ]
    assert len({batch.target.shape[1] for batch in batches}) > 1  # or one length for all would do


def test_probes_that_too_few_questions_allow_are_untested_with_the_reason(
    tiny_config: RunConfig, tiny_setup: Setup
) -> None:
    config = CompareConfig(run=tiny_config)
    reasons = {probed: _untested(config, tiny_setup, probed=probed, measured=()) for probed in (True, False)}
    assert "50 items in each of train, validation and test" in reasons[False]["probes"]
    assert "probes" not in reasons[True]


def test_open_vocabulary_classification_that_is_never_asked_is_untested_with_the_reason(
    tiny_config: RunConfig, tiny_setup: Setup
) -> None:
    test = tiny_setup.dataset["test"]
    reasons = []
    asked = (None, lambda one: one.kind not in OPEN_VOCABULARY, lambda one: one.kind in OPEN_VOCABULARY)
    for wanted in asked:
        kept = list(filter(wanted, test.examples))
        splits = tiny_setup.dataset.splits | {"test": replace(test, examples=kept)}
        setup = replace(tiny_setup, dataset=replace(tiny_setup.dataset, splits=splits))
        reasons.append(_untested(CompareConfig(run=tiny_config), setup, probed=True, measured=()))
    assert "open-vocabulary classification" not in reasons[0]
    assert "none of the test questions is of kind 'class' or 'object'" in reasons[1]["open-vocabulary classification"]
    assert "questions about the image" not in reasons[0].keys() | reasons[1].keys()
    assert "the class is all that is asked" in reasons[2]["questions about the image"]


def test_data_without_splits_of_what_training_never_had_say_nothing_of_transfer(
    tiny_config: RunConfig, tiny_setup: Setup
) -> None:
    splits = {name: tiny_setup.dataset[name] for name in ("train", "validation", "test")}
    for held_out in ("test_combinations", "test_held_out_keywords", "test_keywords"):
        dataset = replace(tiny_setup.dataset, splits=splits | {held_out: splits["test"]})
        reasons = _untested(
            CompareConfig(run=tiny_config), replace(tiny_setup, dataset=dataset), probed=True, measured=()
        )
        assert ("zero-shot transfer" in reasons) == (held_out == "test_keywords")


CONFIGS = sorted((Path(__file__).parents[2] / "04-comparisons" / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", [path for path in CONFIGS if path.stem != "scenes-long"], ids=lambda path: path.stem)
def test_every_committed_comparison_that_may_name_a_winner_tunes_as_the_standard_preset_does(path: Path) -> None:
    standard = load(Path(experiment.__file__).parent / "presets" / "standard.yaml", CompareConfig)
    config = load(path, CompareConfig)
    for name in ("seeds", "learning_rates", "sweep_steps", "trained_blind", "budget"):
        assert getattr(config, name) == getattr(standard, name), name


@pytest.mark.parametrize("preset", ["quick", "standard"])
def test_a_preset_asks_what_open_vocabulary_classification_is_measured_by(preset: str) -> None:
    kinds = load(Path(experiment.__file__).parent / "presets" / f"{preset}.yaml", CompareConfig).run.data.scenes.kinds
    assert not kinds or OPEN_VOCABULARY & set(kinds)


def test_a_sweep_over_captions_too_few_to_retrieve_among_goes_by_their_wording() -> None:
    assert primary({"caption/cider_d": 0.3}) == 0.3
    assert primary({"caption/cider_d": 0.3, "vqa/accuracy": 0.8}) == 0.8


def test_a_sweep_goes_by_classification_only_where_classes_are_all_that_is_asked() -> None:
    assert primary({"classification/accuracy": 0.5, "retrieval/image_to_text_r10": 0.7}) == pytest.approx(0.6)
    assert primary({"classification/accuracy": 0.5, "vqa/accuracy": 0.8}) == 0.8


def test_a_run_is_shipped_with_a_card_of_its_own_scores_and_controls(compare: Compare, tmp_path: Path) -> None:
    results = compare()
    folder = publish(tmp_path / "out", "vljepa-0", tmp_path / "shipped" / "tiny")
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["config.yaml", "model.safetensors", "tokenizer.json", "metrics.json", "card.md"]
    )
    shipped = (folder / "model.safetensors").read_bytes()
    assert shipped == (tmp_path / "out" / "runs" / "vljepa-0" / "model.safetensors").read_bytes()
    card = (folder / "card.md").read_text(encoding="utf-8")
    # Of one seed, the comparison's scores are those of the run.
    columns = [results["arms"]["vljepa"]["test"]["test"]]
    columns += [results["controls"][name]["vljepa"] for name in ("shuffled_image", "no_query")]
    values = [show.score(column["vqa/accuracy"]) for column in columns]
    assert f"| questions about the image | {' | '.join(values)} |" in card
    assert str(tmp_path) not in card
    Answerer.open(folder)
    with pytest.raises(UserError, match="exists already"):
        publish(tmp_path / "out", "vljepa-0", folder)
    with pytest.raises(UserError, match="no tested run 'vljepa-7'"):
        publish(tmp_path / "out", "vljepa-7", tmp_path / "other")
