"""The cells of a protocol, side by side: what is finished is read, what was begun goes on, what is new is begun.

    cells/KEY/results.json     committed; all that the report needs
    work/KEY/                  checkpoint, training state and log of a run; can be removed once the cell is finished

Cells belong to no protocol: one that another protocol has run already is found under its key.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from archlab.compare.grid import encoders
from archlab.compare.grid.cells import Cell, Row, main_rows, tuning_rows, unique_cells
from archlab.compare.grid.inputs import make_inputs
from archlab.compare.grid.protocol import load_protocol
from archlab.compare.grid.report import write_grid_report
from archlab.compare.grid.results import diverged_cell, load_cell, measure_asked, measure_cell, write_cell
from archlab.compare.grid.summary import best_rates
from archlab.compare.workers import leave, side_by_side
from archlab.config import PretrainConfig, RunConfig, to_yaml
from archlab.errors import DivergedError, UserError
from archlab.progress import track
from archlab.train.run import Run, train_run
from archlab.train.setup import Setup

_setups: dict[str, Setup] = {}


@dataclass(frozen=True)
class Places:
    """Folders of the finished cells and of the runs."""

    cells: Path
    work: Path


@dataclass(frozen=True)
class Failure:
    """A cell that could not be run, and why."""

    key: str
    reason: str


def run_grid(path: Path, places: Places, out: Path, *, workers: int, screen: bool = False, run: bool = True) -> Path:
    """Run what is not yet finished of a protocol, and write its report.

    Args:
        path: of the protocol.
        out: folder of the report.
        workers: cells that run side by side.
        screen: run the first seed only; the report says what is missing.
        run: False only writes the report, of what is there.

    Returns:
        path of `report.html`.

    Raises:
        UserError: the protocol is wrong, or cells failed; those that did not are kept.
        KeyboardInterrupt: interrupted; the same call goes on.
    """
    protocol, inputs = load_protocol(path), make_inputs()
    trials, failures = tuning_rows(protocol, inputs), list[Failure]()
    if run and trials:
        failures += run_cells(unique_cells(trials), places, workers, f"tuning {path.stem}")
    tried = found_cells(trials, places)
    tuned = best_rates(tried, protocol)
    rows = main_rows(protocol, inputs, tuned) if not trials or tuned else []
    wanted = [row for row in rows if not screen or row.seed == protocol.seeds[0]]
    if run and wanted:
        failures += run_cells(unique_cells(wanted), places, workers, f"grid {path.stem}")
    report = write_grid_report(path.stem, protocol, tried, found_cells(rows, places), out)
    if failures:
        raise UserError(
            f"{len(failures)} cell{'s' * (len(failures) > 1)} failed, all others are kept and reported; cell "
            f"{failures[0].key}: {failures[0].reason}"
        )
    return report


def run_cells(cells: Sequence[Cell], places: Places, workers: int, description: str) -> list[Failure]:
    """Run the cells that have no results yet; one that fails does not stop the others."""
    left = [cell for cell in cells if load_cell(cell, places.cells) is None]
    failures: list[Failure] = []
    with track(description, len(cells), done=len(cells) - len(left)) as progress:
        if left:
            # Closed at once when this process is interrupted: the workers must hear of it.
            with contextlib.closing(side_by_side(work_on, [(cell, places) for cell in left], workers)) as finished:
                for failure in finished:
                    failures += [failure] if failure is not None else []
                    progress.advance()
    return failures


def work_on(cell: Cell, places: Places) -> Failure | None:
    """In a worker: finish one cell, or say why not. Its progress goes to a log beside the run."""
    folder = places.work / cell.key
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a", encoding="utf-8") as log, contextlib.redirect_stderr(log):
        try:
            finish(cell, places)
        except KeyboardInterrupt:
            leave()
        except UserError as error:
            return Failure(cell.key, str(error))
        except Exception as error:  # a fault of one cell must not keep the others from being run
            traceback.print_exc()
            return Failure(cell.key, f"{type(error).__name__}: {error}; {folder / 'log.txt'} says where")
    return None


def finish(cell: Cell, places: Places) -> None:
    """Train, measure, and write the results."""
    try:
        if isinstance(cell.config, PretrainConfig):
            with _alone(places.work / cell.key):
                results = encoders.measure_cell(cell, places.work / cell.key / "run")
        elif cell.conditions:
            assert cell.parent is not None
            results = measure_asked(cell, *trained(cell.parent, places))
        else:
            run, setup = trained(cell, places)
            results = measure_cell(cell, run, setup)
    except DivergedError as error:
        results = diverged_cell(cell, str(error))
    write_cell(cell, places.cells, results)
    # Whoever removes the cell wants it measured again: what was measured along the way must not be found.
    shutil.rmtree(places.work / cell.key / "run" / "test", ignore_errors=True)


def trained(cell: Cell, places: Places) -> tuple[Run, Setup]:
    """The finished run of a cell; that of the cell it begins with is finished first, if its weights are not here."""
    config = cell.config
    assert isinstance(config, RunConfig)
    if cell.parent is not None:
        trained(cell.parent, places)
        config = replace(config, start=replace(config.start, run=str(places.work / cell.parent.key / "run")))
    setup = _setup(config)
    with _alone(places.work / cell.key):
        return train_run(config, setup, places.work / cell.key / "run", cell.key), setup


def found_cells(rows: Sequence[Row], places: Places) -> list[tuple[Row, dict[str, Any] | None]]:
    """Every row with its results, None where there are none yet."""
    known = {cell.key: load_cell(cell, places.cells) for cell in unique_cells(rows)}
    return [(row, known[row.cell.key]) for row in rows]


def _setup(config: RunConfig) -> Setup:
    """What a run reads; the last one is kept, as cells of one data set follow each other."""
    key = to_yaml(replace(RunConfig(), data=config.data, tokenizer=config.tokenizer, encoder=config.encoder))
    if key not in _setups:
        _setups.clear()
        _setups[key] = Setup.prepare(config)
    return _setups[key]


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process works on this run. The lock ends with its process, however that ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
