"""Runs of an experiment of the grid, which watch streams: found, or tuned and trained as the experiment says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tests.compare.grid.small import small_base

from archlab.cli import main
from archlab.compare.grid import run as grid
from archlab.compare.grid.run import Places
from archlab.compare.selective.grid_runs import grid_runs
from archlab.compare.selective.protocol import GridRuns
from archlab.compare.selective.recording import Watcher
from archlab.config import RunConfig, load
from archlab.errors import UserError

ASKED = GridRuns(protocol="learning.yaml", arm="vljepa", at={"budget": "shared"})


@pytest.fixture
def folder(tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Protocols of an experiment and of streams; cells run in this process."""

    def one_by_one(work: Callable[..., Any], calls: list[tuple[Any, ...]], workers: int) -> Iterator[Any]:
        yield from (work(*call) for call in calls)

    monkeypatch.setattr(grid, "side_by_side", one_by_one)
    told = {"question": "q", "hypothesis": "h", "decision": "d"}
    experiment = told | {
        "primary": "vqa/accuracy",
        "arms": {"token": {"arm": "token"}, "vljepa": {"arm": "vljepa"}},
        "factors": {
            "budget": {"key": "budget", "values": ["shared", "equal-flops"]},
            "split": {"key": "split", "values": ["test", "test_forms"]},
        },
        "tuning": {"learning_rates": [1.0e-3, 2.0e-3], "steps": 2},
        "seeds": [0, 1],
        "test_items": 4,
        "base": small_base(tiny_encoder),
    }
    (tmp_path / "learning.yaml").write_text(yaml.safe_dump(experiment), encoding="utf-8")
    (tmp_path / "streams.yaml").write_text(yaml.safe_dump(told), encoding="utf-8")
    return tmp_path


def test_the_arms_runs_are_tuned_and_trained_once_and_shared_with_the_experiment(folder: Path) -> None:
    places = Places(folder / "cells", folder / "work")
    runs = grid_runs(folder / "streams.yaml", ASKED, places, 1)
    configs = [load(run / "config.yaml", RunConfig) for run in runs]
    assert [(config.arm, config.seed) for config in configs] == [("vljepa", 0), ("vljepa", 1)]
    assert {config.optimizer.learning_rate for config in configs} <= {1.0e-3, 2.0e-3}
    assert len(list(places.cells.iterdir())) == 4  # two trials and two runs, of this arm and level alone
    Watcher.open(runs[0])

    before = {file: file.stat().st_mtime_ns for file in places.cells.rglob("*.json")}
    weights = load_file(runs[0] / "model.safetensors")  # values, not bytes: the order of what is said of them varies
    shutil.rmtree(runs[0])  # results are committed, weights are not
    assert grid_runs(folder / "streams.yaml", ASKED, places, 1) == runs
    torch.testing.assert_close(load_file(runs[0] / "model.safetensors"), weights, rtol=0, atol=0)
    grid.run_grid(folder / "learning.yaml", places, folder / "report", workers=1, screen=True)
    after = {file: file.stat().st_mtime_ns for file in places.cells.rglob("*.json")}
    assert before.items() <= after.items()
    keys = {json.loads(file.read_text())["key"] for file in after}
    assert {run.parent.name for run in runs} <= keys


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"arm": "tokens"}, "runs.arm='tokens': is no arm of learning.yaml that begins at random"),
        ({"at": {}}, "runs.at: budget=None must be one of ['shared', 'equal-flops']"),
        ({"at": {"budget": "paper"}}, "runs.at: budget='paper' must be one of"),
        ({"at": {"budget": "shared", "K": 4}}, "runs.at: 'K' is no factor of learning.yaml's runs"),
    ],
)
def test_runs_that_the_experiment_has_not_are_named(folder: Path, change: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=r"protocol .*streams\.yaml: ") as caught:
        grid_runs(folder / "streams.yaml", replace(ASKED, **change), Places(folder, folder), 1)
    assert named in str(caught.value)


def test_without_runs_there_is_nothing_that_watches(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selective", str(folder / "streams.yaml"), "--out", str(folder / "out")]) == 2
    assert "names no runs; give the folders of finished vljepa runs, one per seed" in capsys.readouterr().err
