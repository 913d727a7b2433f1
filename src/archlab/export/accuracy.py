"""What int8 costs at the task: both precisions of an export, asked the same on the run's validation split."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from archlab.config import RunConfig
from archlab.errors import UserError
from archlab.evaluate.measure import Items, Measurement, measure_captions, measure_retrieval, measure_vqa
from archlab.evaluate.readout import EmbeddingReadout
from archlab.export.manifest import Accuracy, Manifest, Score
from archlab.export.opening import Precision, open_export
from archlab.train.checkpoint import load_checkpoint
from archlab.train.setup import Setup

_SPLIT = "validation"


def record_accuracy(folder: Path, run: Path) -> Accuracy:
    """Measure the task accuracy of an export in float32 and in int8, images to answers, and write it into the manifest.

    Measured are the accuracies on questions, right facts of captions, and VL-JEPA's R@1, as far as the data have them.

    Args:
        folder: of the export, with int8.
        run: that was exported; its data are read.

    Raises:
        UserError: the export or the data cannot be read, or there is nothing to measure.
    """
    manifest = Manifest.load(folder)
    checkpoint = load_checkpoint(run, RunConfig)
    if checkpoint.digest() != manifest.run_digest:
        raise UserError(f"export {folder}: comes from another run than {run}; export that one")
    setup = Setup.prepare(checkpoint.config, checkpoint.tokenizer)
    fp32, int8 = (_measured(folder, precision, setup) for precision in ("fp32", "int8"))
    if not fp32:
        raise UserError(f"run {run}: its {_SPLIT} split has no questions or captions to measure int8 on")
    scores = {
        name: Score(items=len(values), fp32=float(values.mean()), int8=float(int8[name].mean()))
        for name, values in fp32.items()
    }
    accuracy = Accuracy(split=_SPLIT, scores=scores)
    replace(manifest, accuracy=accuracy).save(folder)
    return accuracy


def _measured(folder: Path, precision: Precision, setup: Setup) -> dict[str, np.ndarray]:
    """Metric -> its value for each item."""
    exported = open_export(folder, precision)
    asked = replace(setup, encoder=cast(Any, exported.encoder))
    collator, readout, result = asked.collator(_SPLIT), exported.readout, Measurement()
    items = Items.first(collator.split, len(collator.split.examples))
    measure_vqa(result, readout, collator, items.vqa)
    if len(items.captions):
        measure_captions(result, readout, collator, items.captions)
        if isinstance(readout, EmbeddingReadout):
            measure_retrieval(result, readout, collator, items.captions)
    kept = ("vqa/accuracy", "classification/accuracy", "caption/slots")
    return {name: values for name, values in result.values.items() if name in kept or name.endswith("_r1")}
