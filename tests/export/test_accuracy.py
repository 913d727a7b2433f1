"""What int8 costs is measured on the run's own validation split, and decides whether it is served unasked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from archlab.config import RunConfig
from archlab.errors import UserError
from archlab.evaluate.measure import Items, Measurement, measure_vqa
from archlab.export.accuracy import record_accuracy
from archlab.export.manifest import Accuracy, Manifest, Score
from archlab.train.checkpoint import load_checkpoint
from archlab.train.setup import Setup
from archlab.vl.answering import Answerer

Folders = Callable[[str], Path]


def test_the_accuracy_of_float32_is_that_of_the_run_in_pytorch(
    own_export: Folders, talkative_run: Folders, tiny_setup: Setup
) -> None:
    folder, run = own_export("vljepa"), talkative_run("vljepa")
    accuracy = record_accuracy(folder, run)
    assert Manifest.load(folder).accuracy == accuracy
    assert "| vqa/accuracy | " in (folder / "card.md").read_text()
    result, collator = Measurement(), tiny_setup.collator("validation")
    items = Items.first(collator.split, len(collator.split.examples))
    measure_vqa(result, Answerer.open(run).readout, collator, items.vqa)
    questions = accuracy.scores["vqa/accuracy"]
    assert questions.items == len(result.values["vqa/accuracy"])
    # The features of both are kept in float16: an answer may tip over.
    assert questions.fp32 == pytest.approx(result.means()["vqa/accuracy"], abs=1.5 / questions.items)
    assert {"caption/slots", "retrieval/text_to_image_r1"} <= accuracy.scores.keys()
    assert accuracy.split == "validation"
    assert not accuracy.kept  # a dozen images tell nothing


def test_another_run_than_the_exported_one_is_refused(own_export: Folders, talkative_run: Folders) -> None:
    with pytest.raises(UserError, match="comes from another run"):
        record_accuracy(own_export("vljepa"), talkative_run("token"))


@pytest.mark.parametrize(
    ("int8", "items", "served"),
    [
        ({"vqa/accuracy": 0.8, "caption/slots": 0.6}, 400, True),
        ({"vqa/accuracy": 0.7955, "caption/slots": 0.7}, 400, True),
        ({"vqa/accuracy": 0.7945, "caption/slots": 0.6}, 400, False),
        ({"vqa/accuracy": 0.9, "caption/slots": 0.59}, 400, False),  # one metric may not pay for another
        ({"vqa/accuracy": 0.8, "caption/slots": 0.6}, 199, False),  # too few to tell
    ],
)
def test_int8_is_served_unasked_only_where_enough_items_tell_that_no_metric_loses_half_a_point(
    exported: Folders, int8: dict[str, float], items: int, served: bool
) -> None:
    fp32 = {"vqa/accuracy": 0.8, "caption/slots": 0.6}
    scores = {name: Score(items=items, fp32=fp32[name], int8=value) for name, value in int8.items()}
    manifest = Manifest.load(exported("vljepa"))
    assert replace(manifest, accuracy=Accuracy(split="validation", scores=scores)).served_as_int8 is served
    assert not replace(manifest, accuracy=None).served_as_int8


def test_a_metric_of_few_items_decides_nothing() -> None:
    many, few = Score(items=400, fp32=0.8, int8=0.8), Score(items=9, fp32=0.9, int8=0.1)
    assert Accuracy(split="validation", scores={"vqa/accuracy": many, "classification/accuracy": few}).kept


def test_the_config_of_an_export_is_that_of_its_run(exported: Folders, talkative_run: Folders) -> None:
    checkpoint = load_checkpoint(talkative_run("vljepa"), RunConfig)
    assert (exported("vljepa") / "config.yaml").read_text() == (checkpoint.folder / "config.yaml").read_text()
