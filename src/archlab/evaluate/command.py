"""`archlab evaluate RUN`: measure a trained run on a split."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from archlab.config import RunConfig
from archlab.errors import UserError
from archlab.evaluate.measure import scores_of
from archlab.train.checkpoint import load_checkpoint
from archlab.train.folder import write_text
from archlab.train.run import load_run, measure_arm
from archlab.train.setup import Setup

_SAMPLES = 2000


def evaluate_run(run: Path, split: str, data: str | None, out: Path | None) -> None:
    """Print every metric of a run on all items of a split, with 95 % intervals over the images.

    Args:
        run: folder of a finished run.
        data: another `data.source` than the run was trained on.
        out: also write the scores to this JSON file.

    Raises:
        UserError: the run or the data cannot be read, there is no such split or nothing to score in it, or a supervised
            head is asked about other data than it was trained on.
    """
    checkpoint = load_checkpoint(run, RunConfig)
    config = checkpoint.config
    # On what there is here, which may not be what the run was trained on.
    asked = replace(config, device="auto", data=replace(config.data, source=data or config.data.source))
    setup = Setup.prepare(asked, checkpoint.tokenizer)
    if config.arm == "supervised" and setup.dataset["train"].digest != checkpoint.metrics["data_digest"]["train"]:
        raise UserError(
            f"run {run}: its supervised head knows only the answers that it was trained on, and "
            f"{asked.data.source!r} is other data; give the data of its training, or a run of another arm"
        )
    if split not in setup.dataset.splits:
        raise UserError(f"--split {split}: is not in the data; it has {', '.join(setup.dataset.splits)}")
    count = len(setup.dataset[split].examples)
    result = measure_arm(load_run(run, setup).arm, setup, config, split, count)
    if not result.values:
        raise UserError(f"--split {split}: has nothing to score the {config.arm} arm on; give another split")
    scores = scores_of([result], _SAMPLES)
    table = Table("metric", "value", "95 % interval", "chance", "items", title=f"{config.arm}, {split}")
    for metric, one in scores.items():
        chance = f"{one['chance']:.3f}" if "chance" in one else ""
        table.add_row(metric, f"{one['value']:.3f}", f"[{one['low']:.3f}, {one['high']:.3f}]", chance, str(one["n"]))
    Console().print(table)
    if out is not None:
        write_text(out, json.dumps({"run": str(run), "split": split, "scores": scores}, indent=1) + "\n")
