"""What a longer run says of missed goals is read from both results, and follows them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from archlab.compare import formatting as show
from archlab.compare.longer import BLOCK, LONG, SHORT, limit, longer_markdown, write_longer
from archlab.documents import block_command, markers

Results = dict[str, Any]
ROOT = Path(__file__).resolve().parents[3]
METRIC = "vqa/colour"


def level(score: dict[str, Any], value: float) -> None:
    """Put a score to a value, within five points."""
    score |= {"value": value, "low": value - 0.05, "high": value + 0.05}


@pytest.fixture
def pair(make: Callable[..., Results]) -> tuple[Results, Results]:
    """Arms at 40 %, blind ones at 20 %, a head at 60 %; and the same after three times the steps."""
    pair = make(), make(1)
    for results in pair:
        for arm in results["arms"].values():
            level(arm["test"]["test"][METRIC], 0.4)
        for name, controls in results["controls"].items():
            for own in controls.values():
                if METRIC in own:
                    level(own[METRIC], 0.6 if name == "supervised_head" else 0.2)
    pair[1]["arms"]["token"]["training"]["steps"] = 3 * pair[0]["arms"]["token"]["training"]["steps"]
    return pair


def test_an_arm_that_is_clearly_better_later_had_too_few_steps(pair: tuple[Results, Results]) -> None:
    assert limit(*pair, METRIC).startswith("not decided")
    level(pair[1]["arms"]["vljepa"]["test"]["test"][METRIC], 0.45)
    assert limit(*pair, METRIC).startswith("not decided")
    level(pair[1]["arms"]["vljepa"]["test"]["test"][METRIC], 0.55)
    assert limit(*pair, METRIC).startswith("the steps")


def test_a_head_no_better_than_the_blind_blames_the_features_unless_an_arm_got_better(
    pair: tuple[Results, Results],
) -> None:
    level(pair[1]["controls"]["supervised_head"]["both"][METRIC], 0.25)
    assert limit(*pair, METRIC).startswith("the frozen features")
    level(pair[1]["arms"]["vljepa"]["test"]["test"][METRIC], 0.55)
    assert limit(*pair, METRIC).startswith("the steps")


def test_both_runs_stand_side_by_side_with_their_steps(pair: tuple[Results, Results]) -> None:
    level(pair[1]["arms"]["vljepa"]["test"]["test"][METRIC], 0.57)
    text = longer_markdown(*pair)
    steps = [results["arms"]["token"]["training"]["steps"] for results in pair]
    row = next(line for line in text.splitlines() if line.startswith("| colour"))
    for results, arm in zip(pair, ("token", "vljepa"), strict=True):
        assert show.score(results["arms"][arm]["test"]["test"][METRIC]) in row
    assert "| 66.7 % |" in row
    assert "| 95.0 % |" in row
    assert all(f"share, {count:,} steps" in text for count in steps)
    assert f"after {steps[0]:,} steps and in " in text


def test_the_block_is_written_and_checked(pair: tuple[Results, Results], tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text("\n".join(markers(BLOCK)))
    for name, results in zip((SHORT, LONG), pair, strict=True):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(results))
    assert block_command("m", write_longer, "the longer run", [str(page), str(tmp_path), "--check"]) == 1
    assert block_command("m", write_longer, "the longer run", [str(page), str(tmp_path)]) == 0
    assert block_command("m", write_longer, "the longer run", [str(page), str(tmp_path), "--check"]) == 0
    assert longer_markdown(*pair) in page.read_text()


def test_the_committed_block_is_that_of_the_committed_results() -> None:
    folder = ROOT / "04-comparisons"
    assert write_longer(folder / "README.md", folder / "results", check=True)
