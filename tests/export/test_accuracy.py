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
from archlab.export.manifest import Accuracy, Manifest
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
    assert (accuracy.split, accuracy.items) == ("validation", len(tiny_setup.dataset["validation"].examples))
    result, collator = Measurement(), tiny_setup.collator("validation")
    measure_vqa(result, Answerer.open(run).readout, collator, Items.first(collator.split, accuracy.items).vqa)
    assert accuracy.fp32["vqa/accuracy"] == pytest.approx(result.means()["vqa/accuracy"], abs=0.02)  # float16 features
    assert accuracy.fp32.keys() == accuracy.int8.keys()
    assert "retrieval/text_to_image_r1" in accuracy.fp32


def test_another_run_than_the_exported_one_is_refused(own_export: Folders, talkative_run: Folders) -> None:
    with pytest.raises(UserError, match="comes from another run"):
        record_accuracy(own_export("vljepa"), talkative_run("token"))


@pytest.mark.parametrize(
    ("int8", "served"),
    [
        ({"vqa/accuracy": 0.8, "caption/slots": 0.6}, True),
        ({"vqa/accuracy": 0.7955, "caption/slots": 0.7}, True),
        ({"vqa/accuracy": 0.7945, "caption/slots": 0.6}, False),
        ({"vqa/accuracy": 0.9, "caption/slots": 0.59}, False),  # one metric may not pay for another
    ],
)
def test_int8_is_served_unasked_only_where_no_metric_loses_half_a_point(
    shared_export: Folders, int8: dict[str, float], served: bool
) -> None:
    fp32 = {"vqa/accuracy": 0.8, "caption/slots": 0.6}
    manifest = Manifest.load(shared_export("vljepa"))
    measured = Accuracy(split="validation", items=9, fp32=fp32, int8=int8)
    assert replace(manifest, accuracy=measured).served_as_int8 is served
    assert not replace(manifest, accuracy=None).served_as_int8


def test_the_config_of_an_export_is_that_of_its_run(shared_export: Folders, talkative_run: Folders) -> None:
    checkpoint = load_checkpoint(talkative_run("token"), RunConfig)
    assert (shared_export("token") / "config.yaml").read_text() == (checkpoint.folder / "config.yaml").read_text()
