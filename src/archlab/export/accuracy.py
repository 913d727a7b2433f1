"""What int8 costs at the task: both precisions of an export, asked the same on the run's validation split."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from archlab.config import RunConfig
from archlab.errors import UserError
from archlab.evaluate.measure import Measurement
from archlab.evaluate.whole_split import measure_answerer
from archlab.export.card import with_accuracy
from archlab.export.manifest import Accuracy, Manifest, Score, digest_of
from archlab.export.opening import CARD, Precision, open_export
from archlab.train.checkpoint import load_checkpoint
from archlab.train.folder import write_text
from archlab.train.setup import Setup

SPLIT = "validation"
_PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")


def record_accuracy(folder: Path, run: Path) -> Accuracy:
    """Measure the task accuracy of an export in float32 and in int8, images to answers, and record it.

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
    record(folder, run, accuracy)
    return accuracy


def record(folder: Path, run: Path, accuracy: Accuracy) -> None:
    """Write what int8 costs into an export: into its manifest for the service, into its card for people.

    Args:
        folder: of the export.
        run: that was exported; its card is the beginning of the export's.
        accuracy: of both precisions.
    """
    manifest, card = Manifest.load(folder), folder / CARD
    text = with_accuracy((run / CARD).read_text(encoding="utf-8"), accuracy)
    if manifest.accuracy == accuracy and card.read_text(encoding="utf-8") == text:  # nothing is made again
        return
    write_text(card, text)
    replace(manifest, accuracy=accuracy, files=manifest.files | {CARD: digest_of(card)}).save(folder)


def accuracy_of(fp32: Measurement, int8: Measurement) -> Accuracy:
    """What an export keeps of both precisions, measured on the same items of the validation split."""
    kept = ("vqa/accuracy", "classification/accuracy", "caption/slots")
    scores = {
        name: Score(items=len(values), fp32=float(values.mean()), int8=float(int8.values[name].mean()))
        for name, values in fp32.values.items()
        if name in kept or name.endswith("_r1")
    }
    return Accuracy(split=SPLIT, scores=scores)
