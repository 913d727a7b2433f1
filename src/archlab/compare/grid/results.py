"""What a cell leaves behind: one small `results.json`, to be committed, that needs neither weights nor data to be read.

Per-item values stay with the run; the file holds means, intervals over the test images, the curve on validation, and
what is needed to trust and to repeat them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import archlab
from archlab import machine
from archlab.compare.cost import parameter_counts
from archlab.compare.flops import BatchShape, Sizes, training_flops
from archlab.compare.grid.cells import Cell
from archlab.compare.grid.conditions import measure_conditions
from archlab.compare.grid.language import measure_language
from archlab.compare.trial import try_run
from archlab.config import CompareConfig, flatten, to_dict
from archlab.errors import UserError
from archlab.evaluate.measure import Measurement, unit_of
from archlab.evaluate.statistics import score
from archlab.train.run import Run, run_order
from archlab.train.setup import Setup

FILE = "results.json"
_BOOTSTRAP_SAMPLES = 1000
_BOOTSTRAP_SEED = 0
_DIGITS = 5
_FLOPS_EVERY = 10  # steps: enough batches to know the mean length of texts by
_SMALLEST_GALLERY = 2
_LEFT_OUT = "retrieval_pmi"  # needs a gallery that would take longer than the cell


def measure_cell(cell: Cell, run: Run, setup: Setup) -> dict[str, Any]:
    """The content of a finished cell's file."""
    asked = CompareConfig(run=run.config, test_items=max(cell.test_items, 1), pmi_gallery=_SMALLEST_GALLERY)
    trial = try_run(run, setup, asked) if cell.test_items else {}
    return head(cell) | {
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
        **curve_of(run.metrics, run.config.optimizer.batch_size),
        "test": {name: _scores(measurement) for name, measurement in trial.items()},
        "language": measure_language(run, setup) if cell.test_items else {},
    }


def measure_asked(cell: Cell, run: Run, setup: Setup) -> dict[str, Any]:
    """The content of the file of a cell that asks the run of its parent."""
    assert cell.parent is not None
    found = measure_conditions(cell.conditions, run, setup, cell.test_items)
    return head(cell) | {
        "run": cell.parent.key,
        "order_digest": run.metrics["order_digest"],
        "features_digest": {name: digest for name, (_, digest) in found.items()},
        "test": {name: _scores(measurement) for name, (measurement, _) in found.items()},
    }


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


def diverged_cell(cell: Cell, reason: str) -> dict[str, Any]:
    """The content of the file of a cell whose training did not end in numbers: a result too."""
    return head(cell) | {"diverged": reason}


def load_cell(cell: Cell, folder: Path) -> dict[str, Any] | None:
    """The results of a cell, None where it has none yet.

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
    return found


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
    }


def _scores(measurement: Measurement) -> dict[str, Any]:
    """Every metric with its interval over the test images: of this one run."""
    scores = {}
    for metric, values in measurement.values.items():
        if metric.startswith(_LEFT_OUT):
            continue
        chance = measurement.chance.get(metric)
        scores[metric] = item_score(values, measurement.clusters[metric], unit_of(metric), chance)
    return scores


def item_score(
    values: np.ndarray, clusters: np.ndarray, unit: str = "accuracy", chance: float | None = None
) -> dict[str, float]:
    """The mean over items with its interval over their images, as it is kept in a cell's file."""
    one = score(values, clusters, samples=_BOOTSTRAP_SAMPLES, seed=_BOOTSTRAP_SEED, unit=unit, chance=chance)
    kept = ("value", "low", "high", "n", "chance")
    return {key: round(value, _DIGITS) for key, value in one.to_dict().items() if key in kept}


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
