"""Promises of `archlab watch`: a clip is put into words where something happens, frame by frame."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.clips import write_clip

from archlab.compare.selective.recording import Watcher
from archlab.compare.selective.watch import watch
from archlab.data.clips import stream_clip
from archlab.errors import UserError
from archlab.train.run import Run
from archlab.train.setup import Setup


@pytest.fixture
def clip(tiny_setup: Setup, tmp_path: Path) -> Path:
    """Three scenes for four seconds each."""
    scenes = tiny_setup.dataset["test"].images[:3]
    return write_clip(tmp_path / "a.mp4", np.repeat(scenes, 8, 0), rate=2)


def watched(run: Path, clip: Path, capsys: pytest.CaptureFixture[str], **options: Any) -> tuple[list[str], str]:
    """The segments, and the last line."""
    watch(run, clip, options.pop("query", None), **{"rate": 2.0, "threshold": 1e-4, "every": None} | options)
    *segments, last = capsys.readouterr().out.splitlines()
    return segments, last


def test_a_text_comes_where_the_picture_changes(
    talkative_run: Callable[[str], Path], clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    segments, last = watched(talkative_run("vljepa"), clip, capsys)
    starts = [float(line.split()[0]) for line in segments]
    assert starts[0] == 0.0
    assert set(starts) <= {0.0, 4.0, 8.0}
    frames, decodes, count = map(int, re.findall(r"\d+", last))
    assert frames == 24
    assert len(segments) == count <= decodes < 12


def test_texts_are_those_of_the_run(
    talkative_run: Callable[[str], Path], clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    watcher = Watcher.open(talkative_run("vljepa"))
    _, pixels = next(stream_clip(clip, 64, 2.0, max_pixels=10_000))
    features = watcher.features(pixels[None])
    (said,) = watcher.readout.decode(watcher.embeddings(features, "what is this"))
    segments, _ = watched(talkative_run("vljepa"), clip, capsys, query="what is this")
    assert segments[0] == f"{0:10.2f} s  {' '.join(said.split())}"


def test_a_threshold_that_nothing_exceeds_leaves_one_segment(
    talkative_run: Callable[[str], Path], clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    segments, last = watched(talkative_run("vljepa"), clip, capsys, threshold=1e6)
    assert len(segments) == 1
    assert last.endswith("1 decodes, 1 segments")


def test_a_paced_trigger_speaks_more_often_where_it_shall(
    talkative_run: Callable[[str], Path], clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def decodes(**options: Any) -> int:
        return int(re.findall(r"(\d+) decodes", watched(talkative_run("vljepa"), clip, capsys, **options)[1])[0])

    assert decodes(threshold=1e6) < decodes(threshold=1e-3, every=1.0)


def test_fewer_frames_are_looked_at_at_a_lower_rate(
    talkative_run: Callable[[str], Path], clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    segments, last = watched(talkative_run("vljepa"), clip, capsys, rate=0.5)
    assert int(last.split()[0]) == 6
    assert {float(line.split()[0]) for line in segments} <= {0.0, 4.0, 8.0}


@pytest.mark.parametrize("option", ["rate", "threshold", "every"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_an_option_that_breaks_its_rule_is_named(option: str, value: float, tmp_path: Path) -> None:
    options: dict[str, Any] = {"rate": 2.0, "threshold": 0.5, "every": None} | {option: value}
    with pytest.raises(UserError, match=rf"--{option} {value:g}: must be positive and finite"):
        watch(tmp_path, tmp_path / "a.mp4", None, **options)


def test_the_token_arm_and_broken_clips_are_refused(
    tiny_run: Callable[[str], Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.mp4").touch()
    with pytest.raises(UserError, match="the token arm predicts no embeddings"):
        watched(tiny_run("token").folder, tmp_path / "a.mp4", capsys)
    with pytest.raises(UserError, match=r"clip .+a\.mp4: is empty"):
        watched(tiny_run("vljepa").folder, tmp_path / "a.mp4", capsys)
