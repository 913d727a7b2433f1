"""What int8 costs at the task: both precisions of an export, asked the same on the run's validation split."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from archlab.config import RunConfig
from archlab.errors import UserError
from archlab.evaluate.measure import Measurement
from archlab.evaluate.whole_split import measure_answerer
from archlab.export.manifest import Accuracy, Manifest, Score
from archlab.export.opening import Precision, open_export
from archlab.train.checkpoint import load_checkpoint
from archlab.train.setup import Setup

SPLIT = "validation"
_PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")


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
    fp32, int8 = (measure_answerer(open_export(folder, precision), setup, SPLIT) for precision in _PRECISIONS)
    accuracy = accuracy_of(fp32, int8)
    if not accuracy.scores:
        raise UserError(f"run {run}: its {SPLIT} split has no questions or captions to measure int8 on")
    replace(manifest, accuracy=accuracy).save(folder)
    return accuracy


def accuracy_of(fp32: Measurement, int8: Measurement) -> Accuracy:
    """What the manifest keeps of both precisions, measured on the same items of the validation split."""
    kept = ("vqa/accuracy", "classification/accuracy", "caption/slots")
    scores = {
        name: Score(items=len(values), fp32=float(values.mean()), int8=float(int8.values[name].mean()))
        for name, values in fp32.values.items()
        if name in kept or name.endswith("_r1")
    }
    return Accuracy(split=SPLIT, scores=scores)
