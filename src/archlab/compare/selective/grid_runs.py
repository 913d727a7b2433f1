"""The runs that a protocol of streams takes from an experiment of `archlab grid`, whose cells they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from archlab.compare.grid.cells import Row, main_rows, tuning_rows, unique_cells
from archlab.compare.grid.inputs import make_inputs
from archlab.compare.grid.protocol import Protocol, load_protocol
from archlab.compare.grid.run import Places, found_cells, run_cells, trained
from archlab.compare.grid.summary import best_rates
from archlab.compare.selective.protocol import GridRuns
from archlab.errors import UserError


def grid_runs(path: Path, asked: GridRuns, places: Places, workers: int) -> list[Path]:
    """Folders of the finished runs, one per seed; what is missing is tuned and trained as the experiment says.

    Args:
        path: of the protocol of streams.

    Raises:
        UserError: no runs are asked for, or others than the experiment has; or a cell failed.
    """
    if not asked.protocol:
        raise UserError(f"protocol {path}: names no runs; give the folders of finished vljepa runs, one per seed")
    source = path.parent / asked.protocol
    protocol = _only(load_protocol(source), asked, path)
    inputs = make_inputs()
    trials = tuning_rows(protocol, inputs)
    _run(trials, places, workers, f"tuning {source.stem}")
    rows = main_rows(protocol, inputs, best_rates(found_cells(trials, places), protocol))
    _run(rows, places, workers, f"grid {source.stem}")
    for row in rows:
        trained(row.cell, places)  # where results are committed, weights may not be here
    return [places.work / row.cell.key / "run" for row in rows]


def _only(protocol: Protocol, asked: GridRuns, path: Path) -> Protocol:
    """The experiment, of one arm at one level of each factor."""
    own = protocol.trained()
    if asked.arm not in own.arms or "after" in own.arms[asked.arm]:
        raise UserError(f"protocol {path}: runs.arm={asked.arm!r}: is no arm of {asked.protocol} that begins at random")
    factors = {}
    for name, factor in own.factors.items():
        if asked.at.get(name) not in factor.values:
            raise UserError(f"protocol {path}: runs.at: {name}={asked.at.get(name)!r} must be one of {factor.values}")
        factors[name] = replace(factor, values=[asked.at[name]])
    if unknown := asked.at.keys() - own.factors.keys():
        raise UserError(f"protocol {path}: runs.at: {min(unknown)!r} is no factor of {asked.protocol}'s runs")
    return replace(own, arms={asked.arm: own.arms[asked.arm]}, factors=factors)


def _run(rows: Sequence[Row], places: Places, workers: int, description: str) -> None:
    if failures := run_cells(unique_cells(rows), places, workers, description):
        raise UserError(f"cell {failures[0].key}: {failures[0].reason}")
