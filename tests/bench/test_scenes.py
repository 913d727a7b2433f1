from __future__ import annotations

import io
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from archlab.bench import scenes
from archlab.bench.scenes import DRAWN, READ, WORDED, bench_scenes
from archlab.cli import main


def test_every_way_makes_the_same_pictures_and_is_counted_by_its_own_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = itertools.count().__next__
    results = bench_scenes(3, rounds=4, out=tmp_path / "scenes.json", clock=lambda: float(clock()))
    assert json.loads((tmp_path / "scenes.json").read_text()) == results
    for name in (DRAWN, WORDED, READ):
        assert results["ways"][name]["images_per_second"] == 3  # one tick of this clock a call
        assert results["ways"][name]["over_reading"]["ratio"] == 1
    assert DRAWN in capsys.readouterr().out


def test_what_is_read_is_what_was_drawn() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(scenes._png(picture)))), picture)


def test_options_of_others_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "scenes", "--precision", "bfloat16"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
