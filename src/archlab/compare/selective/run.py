"""The cells of a protocol, side by side: what is finished is read, so that the same command goes on where it stopped.

OUT/config.yaml        the protocol; the folder belongs to it
OUT/cells/KEY.json     one run on one kind of streams
OUT/results.json       everything that the report says, with intervals
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from archlab.compare.grid.run import Places
from archlab.compare.selective.cell import StreamCell, finish
from archlab.compare.selective.grid_runs import grid_runs
from archlab.compare.selective.protocol import load_selective
from archlab.compare.selective.report import write_selective_report
from archlab.compare.selective.summary import summarise
from archlab.compare.workers import side_by_side
from archlab.config import RunConfig, load
from archlab.errors import UserError
from archlab.progress import track
from archlab.train.folder import claim, write_text


def run_selective(path: Path, runs: Sequence[Path], places: Places, out: Path, *, workers: int) -> Path:
    """Measure finished runs under a protocol, and write results and report.

    Args:
        path: of the protocol.
        runs: folders of finished vljepa runs, one per seed; none: those that the protocol names, trained first if they
            are not there.
        places: of cells and runs of the grid.
        workers: cells that are measured side by side.

    Returns:
        path of the report.

    Raises:
        UserError: a run cannot be read, does not fit the others, or has no embeddings; or `out` belongs to another
            protocol.
    """
    protocol = load_selective(path)
    runs = runs or grid_runs(path, protocol.runs, places, workers)
    opened = [(run, load(run / "config.yaml", RunConfig)) for run in runs]
    _check(opened)
    claim(out, protocol)
    cells = [
        StreamCell(run, config, _digest(run), condition, protocol)
        for condition in protocol.conditions()  # condition by condition, so that what is cut short has whole ones
        for run, config in opened
    ]
    left = [cell for cell in cells if not _file(cell, out).exists()]
    with track(f"selective decoding, {path.stem}", len(cells), done=len(cells) - len(left)) as progress:
        if left:
            calls = [(cell, _file(cell, out)) for cell in left]
            with contextlib.closing(side_by_side(finish, calls, workers)) as finished:
                for _ in finished:
                    progress.advance()
    found = [_load(_file(cell, out)) for cell in cells]
    results = summarise(path.stem, protocol, found)
    write_text(out / "results.json", json.dumps(results, indent=1, allow_nan=False) + "\n")
    return write_selective_report(json.loads((out / "results.json").read_text(encoding="utf-8")), out)


def _check(opened: Sequence[tuple[Path, RunConfig]]) -> None:
    first, config = opened[0]
    seeds: dict[int, Path] = {}
    for run, other in opened:
        if other.data != config.data or other.encoder != config.encoder:
            raise UserError(f"run {run}: was trained on other data or another encoder than {first}; give one at a time")
        if other.seed in seeds:
            raise UserError(f"run {run}: has seed {other.seed} as has {seeds[other.seed]}; give one run per seed")
        seeds[other.seed] = run


def _digest(run: Path) -> str:
    weights = run / "model.safetensors"
    if not weights.is_file():
        raise UserError(f"run {run}: {weights.name} is missing; give the folder of a finished run")
    return hashlib.sha256(weights.read_bytes()).hexdigest()


def _file(cell: StreamCell, out: Path) -> Path:
    return out / "cells" / f"{cell.key}.json"


def _load(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"cell {path}: is damaged; remove it to measure it again") from None
    return found
