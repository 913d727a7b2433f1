from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from archlab.compare.trial import Trial, try_run
from archlab.config import CompareConfig, RunConfig
from archlab.evaluate.captioning import cider_d
from archlab.evaluate.controls import no_query, shuffled_image
from archlab.evaluate.measure import Items, Measurement, measure_captions, measure_retrieval, measure_vqa
from archlab.evaluate.readout import EmbeddingReadout
from archlab.train.run import Run, readout_of, retrieval_map, train_run
from archlab.train.setup import Setup

SPLITS = {"test", "test_combinations", "test_backgrounds", "test_forms"}
CONTROLS = {"shuffled_image", "no_query"}
OF_VLJEPA = {"decoder_ceiling", "nearest_caption"}


@pytest.fixture(scope="module")
def config(tiny_config: RunConfig) -> CompareConfig:
    return CompareConfig(run=tiny_config, test_items=40, pmi_gallery=5)


@pytest.fixture(scope="module")
def copied(tiny_run: Callable[[str], Run], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    """A finished run in a folder of its own, not yet tried."""

    def copy(arm: str) -> Run:
        folder = shutil.copytree(tiny_run(arm).folder, tmp_path_factory.mktemp("trial") / arm)
        return replace(tiny_run(arm), folder=folder)

    return copy


@pytest.fixture(scope="module")
def tried(copied: Callable[[str], Run], tiny_setup: Setup, config: CompareConfig) -> dict[str, tuple[Run, Trial]]:
    runs = {arm: copied(arm) for arm in ("token", "vljepa", "supervised")}
    return {arm: (run, try_run(run, tiny_setup, config)) for arm, run in runs.items()}


def test_every_test_split_is_scored_and_controls_on_test_alone(tried: dict[str, tuple[Run, Trial]]) -> None:
    assert tried["token"][1].keys() == SPLITS | CONTROLS
    assert tried["vljepa"][1].keys() == SPLITS | CONTROLS | OF_VLJEPA
    assert tried["supervised"][1].keys() == SPLITS
    for run, trial in tried.values():
        assert {path.name for path in (run.folder / "test").iterdir()} == {f"{name}.json" for name in trial}


def test_controls_answer_the_questions_of_test(tried: dict[str, tuple[Run, Trial]]) -> None:
    for arm in ("token", "vljepa"):
        trial = tried[arm][1]
        for name in CONTROLS:
            assert trial[name].answers.keys() == trial["test"].answers.keys()
            assert trial[name].answers != trial["test"].answers
            others = CONTROLS - {name}
            assert all(trial[name].answers != trial[other].answers for other in others)
            assert set(trial[name].values) == {
                metric for metric in trial["test"].values if not metric.startswith("retrieval_pmi")
            }


@pytest.mark.parametrize("arm", ["token", "vljepa"])
@pytest.mark.parametrize(("name", "condition"), [("shuffled_image", shuffled_image(12, 0)), ("no_query", no_query)])
def test_a_control_is_the_measurement_of_test_under_its_condition(
    tried: dict[str, tuple[Run, Trial]], tiny_setup: Setup, config: CompareConfig, arm: str, name: str, condition: Any
) -> None:
    run, trial = tried[arm]
    readout: Any = readout_of(run.arm, tiny_setup)
    collate, result = tiny_setup.collator("test"), Measurement()
    items = Items.first(collate.split, config.test_items)
    measure_vqa(result, readout, collate, items.vqa, condition)
    measure_captions(result, readout, collate, items.captions, condition)
    linear_map = retrieval_map(readout, tiny_setup, run.config)
    measure_retrieval(result, readout, collate, items.captions, linear_map, condition)
    assert trial[name].answers == result.answers
    assert trial[name].means() == result.means()


def test_both_arms_answer_the_same_items(tried: dict[str, tuple[Run, Trial]]) -> None:
    token, vljepa = tried["token"][1], tried["vljepa"][1]
    for name in SPLITS | CONTROLS:
        shared = token[name].values.keys() & vljepa[name].values.keys()
        assert {"vqa/accuracy", "caption/cider_d", "retrieval/image_to_text_r1"} <= shared
        for metric in shared:
            np.testing.assert_array_equal(token[name].clusters[metric], vljepa[name].clusters[metric])
        assert token[name].answers.keys() == vljepa[name].answers.keys()


def test_as_many_items_are_scored_as_asked_for(
    tried: dict[str, tuple[Run, Trial]], tiny_setup: Setup, config: CompareConfig
) -> None:
    for split in SPLITS:
        trial = tried["vljepa"][1][split]
        items = Items.first(tiny_setup.dataset[split], config.test_items)
        assert len(items.vqa) == 40
        assert trial.answers.keys() == {*items.vqa, *items.captions}


def test_both_arms_retrieve_on_test_in_the_gallery_of_likelihood(
    tried: dict[str, tuple[Run, Trial]], config: CompareConfig
) -> None:
    for arm, (_, trial) in tried.items():
        for name, measurement in trial.items():
            found = {metric for metric in measurement.values if metric.startswith("retrieval_pmi")}
            assert bool(found) == (arm in ("token", "vljepa") and name == "test")
            assert all(len(measurement.values[metric]) == config.pmi_gallery for metric in found)


def test_the_supervised_head_answers_and_neither_speaks_nor_retrieves(tried: dict[str, tuple[Run, Trial]]) -> None:
    for measurement in tried["supervised"][1].values():
        assert {metric.split("/")[0] for metric in measurement.values} <= {"vqa", "classification"}
        assert "vqa/accuracy" in measurement.values


def test_the_decoder_ceiling_speaks_the_true_captions_embeddings(
    tried: dict[str, tuple[Run, Trial]], tiny_setup: Setup
) -> None:
    run, trial = tried["vljepa"]
    readout = readout_of(run.arm, tiny_setup)
    assert isinstance(readout, EmbeddingReadout)
    ceiling, test = trial["decoder_ceiling"], tiny_setup.dataset["test"]
    rows = list(ceiling.answers)
    assert {test.examples[row].task for row in rows} == {"caption"}
    truth = [test.examples[row].targets[0] for row in rows]
    assert list(ceiling.answers.values()) == readout.decode(readout.text_vectors(truth))


def test_the_copied_caption_is_the_training_caption_nearest_to_the_prediction(
    tried: dict[str, tuple[Run, Trial]], tiny_setup: Setup
) -> None:
    run, trial = tried["vljepa"]
    readout = readout_of(run.arm, tiny_setup)
    assert isinstance(readout, EmbeddingReadout)
    nearest, test = trial["nearest_caption"], tiny_setup.dataset["test"]
    rows = np.array(list(nearest.answers))
    train = tiny_setup.dataset["train"].examples
    texts = [example.targets[0] for example in train if example.task == "caption"]
    similarity = readout.image_vectors(tiny_setup.collator("test")(rows)) @ readout.text_vectors(texts).T
    for copied, row in zip(nearest.answers.values(), similarity, strict=True):
        assert row[texts.index(copied)] == pytest.approx(row.max(), abs=1e-5)
    references = [list(test.examples[row].targets) for row in rows]
    expected = cider_d(list(nearest.answers.values()), references)
    np.testing.assert_allclose(nearest.values["caption/cider_d"], expected)


def test_what_was_measured_is_read_and_not_measured_again(
    copied: Callable[[str], Run], tiny_setup: Setup, config: CompareConfig
) -> None:
    """The test split is looked at once: a second try gives the first one's numbers, whatever the arm would say now."""
    run = copied("vljepa")
    first = try_run(run, tiny_setup, config)
    path = run.folder / "test" / "test.json"
    kept = json.loads(path.read_text())
    kept["answers"] = {"0": "kept from the first time"}
    path.write_text(json.dumps(kept))
    written = {file: file.stat().st_mtime_ns for file in path.parent.iterdir()}
    again = try_run(run, tiny_setup, config)
    assert again["test"].answers == {0: "kept from the first time"}
    assert again["no_query"].means() == first["no_query"].means()
    assert {file: file.stat().st_mtime_ns for file in path.parent.iterdir()} == written


def test_what_is_missing_is_measured_to_the_same_numbers(
    copied: Callable[[str], Run], tiny_setup: Setup, config: CompareConfig
) -> None:
    run = copied("token")
    first = try_run(run, tiny_setup, config)
    (run.folder / "test" / "test_forms.json").unlink()
    again = try_run(run, tiny_setup, config)
    for name, measurement in first.items():
        assert again[name].means() == measurement.means(), name
        assert again[name].answers == measurement.answers, name


@pytest.mark.parametrize("arm", ["token", "vljepa"])
def test_a_blind_run_is_a_control_itself(
    tiny_config: RunConfig, tiny_setup: Setup, config: CompareConfig, tmp_path: Path, arm: Any
) -> None:
    blind = replace(tiny_config, arm=arm, blind=True)
    run = train_run(blind, tiny_setup, tmp_path / "blind", "")
    trial = try_run(run, tiny_setup, config)
    assert trial.keys() == SPLITS
    assert not any(metric.startswith("retrieval_pmi") for metric in trial["test"].values)
