"""`archlab compress RUN...`: variants of finished runs, measured together, as one table.

    OUT/config.yaml          the recipe; the folder belongs to it
    OUT/runs/ARM-VARIANT     a run folder each, with its export to ONNX and its scores
    OUT/latency.json         of all variants, timed in turns
    OUT/results.json, OUT/accuracy-latency.png

Every step is skipped when what it makes is there, so that the same command goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from archlab.compare import formatting as show
from archlab.compress.document import FIGURE
from archlab.compress.measure import Row, measure_rows, measure_times, record_int8, rows_of
from archlab.compress.plot import plot_compression
from archlab.compress.recipe import DENSE, CompressConfig
from archlab.compress.results import QUESTIONS, assemble_results, at_smallest, results_path
from archlab.compress.variants import Parent, copy_parent, make_variant, open_parent, variant_config
from archlab.errors import UserError
from archlab.train.folder import check_folder, claim, write_text
from archlab.train.setup import Setup


def compress_runs(runs: Sequence[Path], config: CompressConfig, out: Path, command: str) -> Path:
    """Make all variants of the runs, measure them, and write results and figure.

    Args:
        runs: finished, of the token and the vljepa arm, one of each at most, on the same data.
        command: how it was asked for, for the results.

    Returns:
        path of `results.json`.

    Raises:
        UserError: a run cannot be read or compressed or does not fit the other, or `out` belongs to something else.
        KeyboardInterrupt: interrupted; the same call goes on.
    """
    check_folder(out, config)
    parents = open_parents(runs)
    for parent in parents.values():
        for variant in config.named().values():
            variant_config(parent, variant)  # before anything is trained
    claim(out, config)
    rows: list[Row] = []
    for arm, parent in parents.items():
        folders = {name: out / "runs" / f"{arm}-{name}" for name in (DENSE, *config.named())}
        copy_parent(parent, folders[DENSE])
        for name, variant in config.named().items():
            make_variant(parent, name, variant, folders[name])
        rows += [row for name, folder in folders.items() for row in rows_of(folder, arm, name, config.runtimes)]
    setups = {arm: parent.setup for arm, parent in parents.items()}
    measure_rows(rows, setups, "validation")
    record_int8(rows)
    times = _times(out / "latency.json", rows, setups, config)
    measure_rows(rows, setups, "test")  # once, when nothing is left to be chosen
    results = assemble_results(parents, rows, times, config, command)
    write_text(results_path(out), json.dumps(results, indent=1, allow_nan=False) + "\n")
    plot_compression(results, out / FIGURE)
    _print(results)
    return results_path(out)


def open_parents(runs: Sequence[Path]) -> dict[str, Parent]:
    """The runs by arm, with their data.

    Raises:
        UserError: see `compress_runs`.
    """
    parents: dict[str, Parent] = {}
    for run in runs:
        checkpoint = open_parent(run)
        config = checkpoint.config
        if config.arm in parents:
            raise UserError(f"run {run}: is of the {config.arm} arm as is another; give one run of each arm")
        for other in parents.values():
            if (other.config.data, other.config.encoder) != (config.data, config.encoder):
                raise UserError(f"run {run}: was trained on other data or another encoder than the other run")
        setup = Setup.prepare(config, checkpoint.tokenizer)
        if checkpoint.metrics.get("encoder_digest") != setup.encoder.digest:
            raise UserError(f"run {run}: read the features of another encoder than {config.encoder.weights!r} now is")
        if checkpoint.metrics.get("data_digest") != setup.dataset.digest():
            raise UserError(
                f"run {run}: was trained on other data than data.source={config.data.source!r} gives now; restore them"
            )
        parents[config.arm] = Parent(checkpoint, checkpoint.digest(), setup)
    return parents


def _times(path: Path, rows: Sequence[Row], setups: dict[str, Setup], config: CompressConfig) -> dict[str, Any]:
    """Measured in one run, or read from one that timed the same rows."""
    names = [row.name for row in rows]
    if path.exists():
        saved = json.loads(path.read_text(encoding="utf-8"))
        if saved["rows"] == names:
            return dict(saved["times"])
    times = measure_times(rows, setups, config.latency_batches, config.latency_rounds)
    write_text(path, json.dumps({"rows": names, "times": times}) + "\n")
    return times


def _print(results: dict[str, Any]) -> None:
    columns = (Column("variant", no_wrap=True), "validation", "test", "choose", "size", "compressed")
    shown = Table(*columns, title="Questions right, time of one, size")
    for row in results["rows"]:
        shown.add_row(
            row["name"],
            *(show.score(row["scores"][split].get(QUESTIONS)) for split in ("validation", "test")),
            show.milliseconds(at_smallest(row["latency"].get("choose", {})).get("p50_ms")),
            *(f"{row['footprint'][key] / 1e6:.2f} MB" for key in ("bytes", "compressed_bytes")),
        )
    Console().print(shown)
    for arm, chosen in results["chosen"].items():
        Console().print(f"{arm}: {chosen or 'no variant'} is the fastest within half a point on validation")
