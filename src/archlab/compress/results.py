"""All numbers of a compression, with intervals and provenance: what table and figure are drawn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from archlab import machine
from archlab.compare.latency import paired_ratio
from archlab.compress.measure import ENCODER, SPLITS, TIMED, Row, footprint, load_scores
from archlab.compress.recipe import DENSE, CompressConfig
from archlab.compress.variants import Parent
from archlab.config import RunConfig, to_dict
from archlab.evaluate.measure import Measurement, scores_of
from archlab.evaluate.statistics import paired_difference
from archlab.export.manifest import MOST_LOST
from archlab.train.card import describe
from archlab.train.checkpoint import load_checkpoint

QUESTIONS, CIDER = "vqa/accuracy", "caption/cider_d"
BASES = ("torch", "onnx")
"""Runtimes of the run itself that latencies are divided by."""

Timed = Mapping[str, Mapping[str, Mapping[str, Any]]]


def assemble_results(
    parents: Mapping[str, Parent], rows: Sequence[Row], times: Timed, config: CompressConfig, command: str
) -> dict[str, Any]:
    """The content of `results.json`.

    Args:
        parents: by arm.
        times: see `measure.measure_times`.
        command: that made it.
    """
    own = [_row(row, rows, times, config) for row in rows]
    first = next(iter(parents.values()))
    return {
        "command": command,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "git": machine.git_commit(),
        "machine": machine.describe(),
        "threads": machine.computing_threads(),
        "recipe": to_dict(config),
        "data": {"source": first.config.data.source, **first.setup.dataset.digest()},
        "encoder": {"weights": first.config.encoder.weights, "digest": first.setup.encoder.digest},
        "parents": {
            arm: {"run": parent.checkpoint.folder.name, "digest": parent.digest} for arm, parent in parents.items()
        },
        "rows": own,
        "encoders": {
            runtime: {batch: _plain(timed) for batch, timed in times[name].items()}
            for runtime in config.runtimes
            if (name := f"{ENCODER}/{runtime}") in times
        },
        "chosen": {arm: choose([row for row in own if row["arm"] == arm]) for arm in parents},
    }


def choose(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Of one arm's rows, the fastest that keeps the questions of validation within half a point; None: no question.

    By the median at the smallest batch. The test split plays no part in it.
    """
    kept = [
        row
        for row in rows
        if "choose" in row["latency"] and -row["change"]["validation"][QUESTIONS]["difference"] <= MOST_LOST
    ]
    return min(kept, key=lambda row: at_smallest(row["latency"]["choose"])["p50_ms"])["name"] if kept else None


def at_smallest(times: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """What was timed at the smallest batch; empty where nothing was."""
    return times[min(times, key=int)] if times else {}


def _row(row: Row, rows: Sequence[Row], times: Timed, config: CompressConfig) -> dict[str, Any]:
    checkpoint = load_checkpoint(row.folder, RunConfig)
    bases = {
        runtime: base
        for base in rows
        for runtime in BASES
        if (base.arm, base.variant, base.runtime) == (row.arm, DENSE, runtime)
    }
    metrics = checkpoint.metrics
    return {
        "name": row.name,
        "arm": row.arm,
        "variant": row.variant,
        "runtime": row.runtime,
        "method": checkpoint.config.compression.method,
        "what": describe(checkpoint.config),
        "recipe": checkpoint.config.compression.recipe,
        "digest": checkpoint.digest(),
        "trained_seconds": metrics["seconds"] if row.variant != DENSE else None,
        "parameters": metrics.get("parameters"),
        "zeros": metrics.get("zeros"),
        "footprint": footprint(row),
        "scores": {split: scores_of([load_scores(row, split)], config.bootstrap_samples) for split in SPLITS},
        "change": {
            split: _changes(load_scores(bases["torch"], split), load_scores(row, split), config.bootstrap_samples)
            for split in SPLITS
        },
        "latency": {
            mode: {
                batch: _plain(timed)
                | {
                    f"times_{runtime}": paired_ratio(
                        timed["seconds"],
                        times[f"{base.name}/{mode}"][batch]["seconds"],
                        samples=config.bootstrap_samples,
                        seed=0,
                    )
                    for runtime, base in bases.items()
                }
                for batch, timed in times[f"{row.name}/{mode}"].items()
            }
            for mode in TIMED
            if f"{row.name}/{mode}" in times
        },
    }


def _changes(base: Measurement, measured: Measurement, samples: int) -> dict[str, Any]:
    """What differs from the run itself in torch, item by item."""
    found = {}
    for metric, values in measured.values.items():
        paired = paired_difference(base.values[metric], values, base.clusters[metric], samples=samples, seed=0)
        found[metric] = {"difference": paired.difference, "low": paired.low, "high": paired.high}
    return found


def _plain(timed: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in timed.items() if key != "seconds"}


def results_path(folder: Path) -> Path:
    """Of the results in the folder of a report."""
    return folder / "results.json"
