from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from archlab.errors import UserError
from archlab.evaluate.command import evaluate_run
from archlab.train.run import Run


@pytest.fixture
def pictures(tmp_path: Path) -> str:
    """Six pictures with a caption and a question: fewer than one training batch of the tiny runs."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    lines = []
    for number in range(6):
        Image.new("RGB", (32, 32), (40 * number, 0, 0)).save(folder / f"{number}.png")
        row = {"text": f"number {number}", "question": "is it bright", "answer": "yes" if number > 2 else "no"}
        lines.append(json.dumps({"file_name": f"{number}.png", **row}))
    (folder / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return str(folder)


@pytest.mark.parametrize("arm", ["token", "vljepa"])
def test_a_run_is_measured_on_other_data_however_few(
    tiny_run: Callable[[str], Run], pictures: str, tmp_path: Path, arm: str
) -> None:
    evaluate_run(tiny_run(arm).folder, "train", pictures, tmp_path / "scores.json")
    scores = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))["scores"]
    assert scores["caption/cider_d"]["n"] == scores["vqa/accuracy"]["n"] == 4


def test_a_supervised_head_is_not_asked_about_other_answers(tiny_run: Callable[[str], Run], pictures: str) -> None:
    with pytest.raises(
        UserError, match=r"knows only the answers that it was trained on, and '.*pictures' is other data"
    ):
        evaluate_run(tiny_run("supervised").folder, "test", pictures, None)


def test_a_supervised_head_is_measured_on_its_own_data(
    tiny_run: Callable[[str], Run], capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate_run(tiny_run("supervised").folder, "test", None, None)
    assert "vqa/accuracy" in capsys.readouterr().out
