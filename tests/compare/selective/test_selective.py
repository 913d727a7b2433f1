"""A tiny run, measured end to end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from archlab.cli import main
from archlab.compare.grid.run import Places
from archlab.compare.selective.cell import CEILING, StreamCell, measure
from archlab.compare.selective.policies import UNTUNED, budgets_of
from archlab.compare.selective.protocol import BASE, load_selective
from archlab.compare.selective.recording import Recording, Watcher
from archlab.compare.selective.timing import time_policies
from archlab.compare.selective.tuning import tune
from archlab.data.streams import Stream, StreamConfig, stream_source
from archlab.errors import UserError
from archlab.train.run import Run


@pytest.fixture(scope="module")
def protocol(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("protocols") / "tiny.yaml"
    content = {
        "question": "q",
        "hypothesis": "h",
        "decision": "d",
        "expect": [{"policy": "trigger", "over": "uniform", "claim": "share"}],
        "streams": {"frames": 30, "interval": 6.0},
        "sweep": {"contrast": ["high"]},
        "budgets": [0.5, 1.0],
        "validation_streams": 1,
        "test_streams": 2,
        "timed_streams": 1,
        "bootstrap_samples": 100,
    }
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def watcher(tiny_run: Callable[[str], Run]) -> Watcher:
    return Watcher.open(tiny_run("vljepa").folder)


@pytest.fixture(scope="module")
def stream(watcher: Watcher) -> Stream:
    source = stream_source(watcher.answerer.config.data, watcher.answerer.encoder.image_size)
    return next(source(StreamConfig(frames=30, interval=6), "test", 1))


def test_a_recording_sees_what_the_opened_run_sees(watcher: Watcher, stream: Stream) -> None:
    answerer, frames = watcher.answerer, [3, 4, 20]
    images = np.concatenate([stream.draw(frame, frame + 1) for frame in frames])
    request = answerer.request(images, [stream.query] * 3)
    found = Recording(stream, watcher, batch=2)
    np.testing.assert_allclose(found.embeddings(frames), watcher.readout.image_vectors(request), atol=1e-5)
    np.testing.assert_allclose(
        found.features(frames).flatten(1).numpy(), request.features.flatten(1).numpy(), atol=1e-4
    )
    assert found.speak([(3, 3), (20, 20)]) == watcher.readout.decode(found.embeddings([3, 20]))
    mean = found.embeddings(range(5, 9)).mean(0, keepdims=True)
    assert found.speak([(5, 8)]) == watcher.readout.decode(mean)


def test_what_nobody_looks_at_is_not_computed_and_nothing_is_computed_twice(
    watcher: Watcher, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    plain = watcher.features
    monkeypatch.setattr(watcher, "features", lambda images: (encoded.append(len(images)), plain(images))[1])
    recording = Recording(stream, watcher)
    decodes = UNTUNED["uniform"](recording, 1.0)
    recording.speak([decode.span for decode in decodes])
    assert sum(encoded) == len(stream.segments)
    UNTUNED["ward"](recording, 1.0)
    UNTUNED["ward-features"](recording, 1.0)
    UNTUNED["ward-mean-features"](recording, 1.0)
    assert sum(encoded) == stream.frames


def test_every_policy_is_timed_part_by_part(watcher: Watcher, stream: Stream) -> None:
    spent = time_policies({name: UNTUNED[name] for name in ("uniform", "ward")}, [stream], watcher)
    for one in spent.values():
        assert all(one[part] > 0 for part in ("encoder", "predictor", "decoder"))
        assert (one["events"], one["frames"]) == (len(stream.segments), 30)


def test_a_cell_holds_all_policies_stream_by_stream(
    tiny_run: Callable[[str], Run], watcher: Watcher, protocol: Path
) -> None:
    run = tiny_run("vljepa")
    cell = StreamCell(run.folder, run.config, "weights", BASE, load_selective(protocol))
    found = json.loads(json.dumps(measure(cell, watcher), allow_nan=False))
    events = found["annotations"]
    for name, budgets in found["policies"].items():
        for budget, one in budgets.items():
            assert len(one["decodes"]) == 2
            assert all(0 <= own <= size for own, size in zip(one["paired"]["caption/slots"], events, strict=True))
            assert all(0 <= own <= 30 for own in one["dense"]["caption/slots"])
            if name.startswith(("uniform", "ward", "oracle", "periodic")):
                assert one["decodes"] == [max(1, round(float(budget) * count)) for count in events]
    assert found["controls"][CEILING]["paired"].keys() == {"caption/slots", "caption/cider_d"}
    assert found["timing"].keys() == found["policies"].keys()
    assert 0.2 < found["tuned"]["trigger"]["1"]["rate"] < 3


def test_thresholds_come_from_validation_streams_alone(
    tiny_run: Callable[[str], Run], watcher: Watcher, protocol: Path
) -> None:
    run, asked = tiny_run("vljepa"), load_selective(protocol)
    cell = StreamCell(run.folder, run.config, "weights", BASE, asked)
    source = stream_source(run.config.data, watcher.answerer.encoder.image_size)

    def thresholds(split: str) -> list[float]:
        recordings = [Recording(one, watcher) for one in source(cell.streams, split, 1)]
        tuned = tune(recordings, "embeddings", budgets_of("trigger", asked.budgets), asked.trigger)
        return [one.config.threshold for one in tuned.values()]

    found = measure(cell, watcher)["tuned"]["trigger"].values()
    assert [one["threshold"] for one in found] == thresholds("validation") != thresholds("test")


def test_what_a_cell_depends_on_is_in_its_key(tiny_run: Callable[[str], Run], protocol: Path) -> None:
    run, asked = tiny_run("vljepa"), load_selective(protocol)
    keys = {
        StreamCell(run.folder, run.config, weights, name, asked).key
        for weights in ("one", "other")
        for name in asked.conditions()
    }
    assert len(keys) == 4
    assert StreamCell(Path("elsewhere"), run.config, "one", BASE, asked).key in keys


def test_the_command_measures_reports_and_goes_on_from_what_is_there(
    tiny_run: Callable[[str], Run], protocol: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["selective", str(protocol), str(tiny_run("vljepa").folder), "--out", str(tmp_path), "--workers", "1"]
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"report: {tmp_path / 'report.html'}\n"
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["conclusion"] == "undecided: 1 of 1 predictions are undecided"
    assert (tmp_path / "report.html").exists()
    cells = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    assert len(cells) == 2
    assert main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()} == cells
    assert json.loads((tmp_path / "results.json").read_text()) == results
    next(iter(cells)).write_text("{")
    assert main(arguments) == 2
    assert "is damaged; remove it to measure it again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arms", "named"),
    [
        (["token"], "the token arm predicts no embeddings to watch"),
        (["vljepa", "vljepa"], "has seed 0 as has"),
    ],
)
def test_runs_that_do_not_fit_are_named(
    tiny_run: Callable[[str], Run],
    protocol: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arms: list[str],
    named: str,
) -> None:
    runs = [str(tiny_run(arm).folder) for arm in arms]
    assert main(["selective", str(protocol), *runs, "--out", str(tmp_path / "out")]) == 2
    assert named in capsys.readouterr().err


def test_a_folder_without_weights_is_named(tiny_run: Callable[[str], Run], protocol: Path, tmp_path: Path) -> None:
    from archlab.compare.selective.run import run_selective

    (tmp_path / "config.yaml").write_text((tiny_run("vljepa").folder / "config.yaml").read_text())
    with pytest.raises(UserError, match=r"model.safetensors is missing"):
        run_selective(protocol, [tmp_path], Places(tmp_path, tmp_path), tmp_path / "out", workers=1)
