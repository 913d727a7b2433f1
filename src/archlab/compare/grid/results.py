"""What a cell leaves behind: one small `results.json`, to be committed, that needs neither weights nor data to be read.

It holds means, the curve on validation, and what is needed to trust and to repeat them; `items.npz` beside it has the
values of the test items (`grid.items`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import archlab
from archlab import machine
from archlab.compare.cost import parameter_counts
from archlab.compare.flops import BatchShape, Sizes, training_flops
from archlab.compare.grid import items
from archlab.compare.grid.cells import Cell
from archlab.compare.grid.conditions import MAJORITY, TEST, Condition, measure_conditions
from archlab.compare.grid.items import Measured, StoredItems, scores_of_items, write_items
from archlab.compare.grid.language import measure_language
from archlab.compare.grid.references import with_all_references
from archlab.compare.trial import majority, try_run
from archlab.config import CompareConfig, flatten, to_dict
from archlab.errors import UserError
from archlab.train.folder import write_text
from archlab.train.run import Run, run_order
from archlab.train.setup import Setup

FILE = "results.json"
_DIGITS = 5
_FLOPS_EVERY = 10  # steps: enough batches to know the mean length of texts by

Results = tuple[dict[str, Any], Measured]
"""The content of `results.json` but for its scores, and what these are of."""


def measure_cell(cell: Cell, run: Run, setup: Setup) -> Results:
    """Of a finished run."""
    content = head(cell) | {
        "data_digest": run.metrics["data_digest"],
        "features_digest": run.metrics["features_digest"],
        "encoder_digest": run.metrics["encoder_digest"],
        "order_digest": run.metrics["order_digest"],
        "parameters": parameter_counts(run.arm, setup.encoder.model),
        "training": {
            "steps": run.metrics["steps"],
            "samples": run.metrics["samples"],
            "seconds": round(run.metrics["seconds"], 2),
            "flops": _flops(run, setup),
        },
        **({"scale": run.metrics["scale"]} if "scale" in run.metrics else {}),
        **curve_of(run.metrics, run.config.optimizer.batch_size),
    }
    if not cell.test_items:
        return content, {}
    return content | {"language": measure_language(run, setup)}, _tried(cell, run, with_all_references(setup))


def measure_asked(cell: Cell, run: Run, setup: Setup) -> Results:
    """Of a cell that asks the run of its parent."""
    assert cell.parent is not None
    found = measure_conditions(cell.conditions, run, with_all_references(setup), cell.test_items, cell.test_captions)
    content = {
        "run": cell.parent.key,
        "order_digest": run.metrics["order_digest"],
        "features_digest": {name: one.features_digest for name, one in found.items()},
    }
    return head(cell) | content, {name: (one.images, one.measurement) for name, one in found.items()}


def write_cell(cell: Cell, folder: Path, results: Results) -> None:
    """Write `items.npz`, then `results.json`, which says that the cell is finished."""
    content, measured = results
    test: dict[str, dict[str, Any]] = {where: {} for where in measured}
    for where, metric, values, _ in scores_of_items(measured):
        chance = measured[where][1].chance.get(metric)
        known = {} if chance is None else {"chance": round(chance, _DIGITS)}
        test[where][metric] = {"value": round(float(values.mean()), _DIGITS), "n": len(values), **known}
    if test:
        write_items(folder / cell.key / items.FILE, measured)
        content = content | {"test": test}
    write_text(folder / cell.key / FILE, json.dumps(content, indent=1, allow_nan=False) + "\n")


def curve_of(metrics: Mapping[str, Any], batch_size: int) -> dict[str, Any]:
    """The learning curve of a run, "curve", and its collapse monitors, "monitor", where it has any."""

    def rounded(values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: round(one, _DIGITS) if isinstance(one, float) else one for name, one in values.items()}

    curve = [
        {
            "step": point["step"],
            "samples": point["step"] * batch_size,
            "seconds": round(point["seconds"], 2),
            "loss": point["loss"],
            "scores": rounded(point["scores"]),
        }
        for point in metrics["curve"]
    ]
    if "monitor" not in metrics:
        return {"curve": curve}
    watched = metrics["monitor"]
    return {"curve": curve, "monitor": {**watched, "points": [rounded(point) for point in watched["points"]]}}


def diverged_cell(cell: Cell, reason: str) -> Results:
    """Of a cell whose training did not end in numbers: a result too."""
    return head(cell) | {"diverged": reason}, {}


def load_cell(cell: Cell, folder: Path) -> dict[str, Any] | None:
    """The results of a cell with its `StoredItems` under "items", None where it has none yet.

    Raises:
        UserError: the file is damaged, or was made when a default was another one.
    """
    path = folder / cell.key / FILE
    if not path.exists():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        there = flatten(found["config"])
    except (ValueError, KeyError, AttributeError):
        raise UserError(f"cell {path}: is damaged; remove its folder to run it again") from None
    now = flatten(to_dict(cell.config))
    for key, value in there.items():
        if now.get(key) != value:
            raise UserError(
                f"cell {path}: was made with {key}={value!r}, a default that is {now.get(key)!r} now; remove its "
                f"folder to run it again, or say {key} in the protocol"
            )
    return found | {"items": StoredItems(path.with_name(items.FILE))} if "test" in found else found


def head(cell: Cell) -> dict[str, Any]:
    """What every cell's file begins with."""
    return {
        "key": cell.key,
        "archlab": archlab.__version__,
        "git": machine.git_commit(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine.describe(),
        "config": to_dict(cell.config),
        "test_items": cell.test_items,
        "test_captions": cell.test_captions,
    }


def _tried(cell: Cell, run: Run, setup: Setup) -> Measured:
    """A run on every test split, its controls, and the majority answer, which needs no run."""
    asked = CompareConfig(run=run.config, test_items=cell.test_items)
    splits, trial = setup.dataset.splits, try_run(run, setup, asked, cell.test_captions)
    found = {name: (splits.get(name, splits[TEST]).image_digest, one) for name, one in trial.items()}
    for name in [name for name in trial if name in splits] if setup.answers else []:
        guessed = majority(setup, splits[name], cell.test_items, cell.test_captions)
        found[Condition(name, control=MAJORITY).name] = (splits[name].image_digest, guessed)
    return found


def _flops(run: Run, setup: Setup) -> int:
    """Operations of the whole training, from the lengths of every tenth batch."""
    order, collate = run_order(run.config, setup), setup.collator("train")
    sizes = Sizes(setup.encoder.width, setup.tokenizer.vocab_size, len(setup.answers))
    counted = []
    for step in range(0, run.config.optimizer.steps, _FLOPS_EVERY):
        rows = order.rows[step]
        lengths = collate.lengths(rows, order.query_forms[step], order.target_forms[step])
        shape = BatchShape(len(rows), setup.encoder.tokens, *lengths)
        counted.append(sum(training_flops(run.config, sizes, shape).values()))
    return round(sum(counted) / len(counted) * run.config.optimizer.steps)
