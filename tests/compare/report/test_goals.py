"""Goals are held against results: every distance is computed, and only seeds and whole intervals decide."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from archlab.compare.goals import BLOCK, GOALS, goals_markdown, write_goals
from archlab.compare.scores import AT_10, CLASSIFICATION, comparisons
from archlab.data.sets import SETS
from archlab.documents import block_command, markers

Results = dict[str, Any]


def around(value: float, unit: str = "accuracy") -> dict[str, Any]:
    """A score with an interval of two points to either side."""
    return {"value": value, "low": value - 0.02, "high": value + 0.02, "n": 100, "seeds": 3, "unit": unit}


def tiles(results: Results, token: float, vljepa: float, end_to_end: float, floor: float) -> Results:
    results["data"]["name"] = "eurosat"
    for arm, value in (("token", token), ("vljepa", vljepa)):
        results["arms"][arm]["test"]["test"][CLASSIFICATION] = around(value)
    for control, value in (("end_to_end", end_to_end), ("image_floor", floor)):
        results["controls"][control] = {"both": {CLASSIFICATION: around(value)}}
    return results


@pytest.mark.parametrize(
    ("end_to_end", "distance", "verdict"),
    [
        (0.8, "+14.0 points [+10.1, +17.9]", "reached"),
        (0.94, "+0.7 points [−3.2, +4.6]", "undecided: the interval includes zero"),
        (1.0, "−5.0 points [−8.9, −1.1]", "missed"),
    ],
)
def test_the_distance_is_that_of_the_better_arm_with_the_intervals_of_both(
    results: Results, end_to_end: float, distance: str, verdict: str
) -> None:
    text = goals_markdown({"tiles": tiles(results, 0.7, 0.9, end_to_end, 0.8)})
    row = next(line for line in text.splitlines() if "at least 95.0 % of the network trained end to end" in line)
    assert row.startswith("| tiles | 3 | open-vocabulary classification: ")
    assert "| VL-JEPA 90.0 % [88.0, 92.0] |" in row
    assert row.endswith(f"| {distance} | {verdict} |")
    floor = next(line for line in text.splitlines() if "above the regression from gradients and colours to cl" in line)
    assert floor.endswith("| +10.0 points [+6.0, +14.0] | reached |")


def test_one_seed_decides_nothing(make: Callable[..., Results]) -> None:
    text = goals_markdown({"tiles": tiles(make(1), 0.7, 0.9, 0.5, 0.5)})
    assert text.count("| undecided: one seed |") == 2


def test_what_the_run_did_not_measure_is_said_and_what_is_cited_is_marked(results: Results) -> None:
    results["data"]["name"] = "openstax-photo:books"
    for arm in ("token", "vljepa"):
        results["arms"][arm]["test"]["test"][AT_10[0]] = around(0.2, "recall")
    text = goals_markdown({"photos": results})
    assert "| not measured | not measured | undecided: the run did not measure it |" in text
    assert "(cited) | " in text
    assert "| 28.5 % | −8.5 points [−10.5, −6.5] | missed |" in text


def test_cited_figures_are_those_that_the_sets_bring() -> None:
    cited = {name: [goal.cited for goal in goals if goal.cited is not None] for name, goals in GOALS.items()}
    assert all(f"{100 * value:.1f} %" in SETS[name].cited for name, values in cited.items() for value in values)
    assert sum(map(len, cited.values())) == 3


def test_the_block_is_written_and_checked_and_other_results_are_passed_over(results: Results, tmp_path: Path) -> None:
    page, folder = tmp_path / "README.md", tmp_path / "results"
    page.write_text("\n".join(markers(BLOCK)))
    for name, content in (("tiles", tiles(results, 0.7, 0.9, 0.8, 0.8)), ("bench", {"rows": []}), ("list", [])):
        (folder / name).mkdir(parents=True)
        (folder / name / "results.json").write_text(json.dumps(content))
    arguments = [str(page), str(folder)]
    assert block_command("m", write_goals, "the goals", [*arguments, "--check"]) == 1
    assert block_command("m", write_goals, "the goals", arguments) == 0
    assert block_command("m", write_goals, "the goals", [*arguments, "--check"]) == 0
    assert list(comparisons(folder)) == ["tiles"]
    assert goals_markdown(comparisons(folder)) in page.read_text()


def test_comparisons_without_goals_have_no_rows(results: Results) -> None:
    assert goals_markdown({"scenes": results}) == "No comparison that has a goal is committed."
