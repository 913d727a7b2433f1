"""The findings of all committed reports: what was run and what was not, every number from a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from archlab.compare.goals import goals_markdown
from archlab.compare.grid.findings import FILE, findings_page, main, write_findings
from archlab.compare.grid.protocol import load_protocol
from archlab.compare.grid.report import outcomes
from archlab.compare.scores import comparisons
from archlab.errors import UserError

COMMITTED = Path(__file__).parents[3] / "04-comparisons"
PROTOCOL: dict[str, Any] = {
    "question": "is it so | or not?",
    "hypothesis": "it is",
    "decision": "by three seeds",
    "primary": "vqa/accuracy",
    "arms": {"token": {"arm": "token"}, "vljepa": {"arm": "vljepa"}},
    "expect": [{"arm": "vljepa", "over": "token"}],
}
FOUND = {"value": 0.042, "difference": 0.042, "low": 0.031, "high": 0.053, "unit": "accuracy"}


def protocol(folder: Path, name: str, **changes: Any) -> Path:
    path = folder / "protocols" / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(PROTOCOL | changes), encoding="utf-8")
    return path


def report(folder: Path, path: Path, conclusion: str, outcome: str, name: str = "", **changes: Any) -> None:
    results = outcomes(path.stem, load_protocol(path), [], [])
    results |= {
        "conclusion": conclusion,
        "verdicts": [{"what": "vljepa minus token is above zero", "found": FOUND, "outcome": outcome, "why": "so"}],
        "cells": {"finished": 6, "of": 6},
        "seeds": [0, 1, 2],
    }
    out = folder / "results" / (name or path.stem) / "results.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results | changes), encoding="utf-8")


def sections(text: str) -> dict[str, str]:
    """Heading of the second level -> what stands below it."""
    parts = [part.partition("\n") for part in text.split("\n## ")[1:]]
    return {head: body for head, _, body in parts}


def test_experiments_stand_under_what_became_of_them(tmp_path: Path) -> None:
    for name, conclusion, outcome in (
        ("good", "supported: all predictions hold", "holds"),
        ("bad", "contradicted: 1 of 1 predictions fail", "fails"),
        ("unclear", "undecided: 1 of 1 predictions are undecided", "undecided"),
        ("begun", "open: 1 of 2 predictions wait for runs", "not run"),
    ):
        report(tmp_path, protocol(tmp_path, name), conclusion, outcome)
    protocol(tmp_path, "never")
    found = sections(findings_page(tmp_path))
    for head, name in (
        ("Reproduced", "good"), ("Not reproduced", "bad"), ("Undecided", "unclear"), ("Run in part", "begun"),
        ("Not run", "never"),
    ):  # fmt: skip
        assert f"### {name}\n" in found[head]
        assert found[head].count("### ") == 1
        assert "**What decides.** by three seeds" in found[head]
    assert "+4.2 points [+3.1, +5.3] | holds" in found["Reproduced"]
    assert "[report](results/good/report.md)" in found["Reproduced"]
    assert f"`archlab grid {tmp_path.name}/protocols/never.yaml`" in found["Not run"]
    assert "| [good](results/good/report.md) | reproduced | 1 | 0 | 0 | 0 | 3 |" in found["Experiments"]
    assert "| [never](protocols/never.yaml) | not run | 0 | 0 | 0 | 0 | 0 |" in found["Experiments"]
    assert "is it so \\| or not?" in found["Reproduced"]


def test_one_protocol_may_have_several_reports_and_a_share_is_one(tmp_path: Path) -> None:
    path = protocol(tmp_path, "streams")
    share = [{"what": "w", "found": FOUND | {"value": 0.93, "unit": "share"}, "outcome": "holds", "why": "so"}]
    report(tmp_path, path, "supported: x", "holds", name="streams-one", verdicts=share)
    report(tmp_path, path, "contradicted: x", "fails", name="streams-two")
    found = sections(findings_page(tmp_path))
    assert "### streams-one" in found["Reproduced"]
    assert "93.0 %" in found["Reproduced"]
    assert "### streams-two" in found["Not reproduced"]
    assert "Not run" not in found


def test_a_protocol_that_says_something_else_than_its_report_is_noticed(tmp_path: Path) -> None:
    path = protocol(tmp_path, "moved")
    report(tmp_path, path, "supported: all predictions hold", "holds")
    words = "The protocol says something else than when this report was made"
    assert words not in findings_page(tmp_path)
    protocol(tmp_path, "moved", expect=[{"arm": "token", "over": "vljepa"}])
    assert words in findings_page(tmp_path)


def test_the_numbers_of_comparisons_are_those_of_their_results(tmp_path: Path) -> None:
    (tmp_path / "results").symlink_to(COMMITTED / "results")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "easy-vqa.yaml").write_text("{}")
    (tmp_path / "configs" / "emoji.yaml").write_text("{}")
    text = sections(findings_page(tmp_path))["Comparisons"]
    results = json.loads((COMMITTED / "results" / "easy-vqa" / "results.json").read_text())
    value = results["arms"]["vljepa"]["test"]["test"]["vqa/accuracy"]["value"]
    block = text.split("### easy-vqa")[1].split("### ")[0]
    assert f"{100 * value:.1f} %" in block
    assert all(note in block for note in results["data"]["notes"])
    assert "1 seed," in block
    assert "emoji.yaml`" in text
    assert "easy-vqa.yaml" not in text
    photo = text.split("### openstax-photo")[1].split("### ")[0]
    assert "image to text, R@10" in photo  # by which its floor is stated


def test_a_configuration_that_says_something_else_than_its_results_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "results").symlink_to(COMMITTED / "results")
    (tmp_path / "configs").mkdir()
    path = tmp_path / "configs" / "easy-vqa.yaml"
    words = "The configuration says something else than when this was run."
    results = json.loads((COMMITTED / "results" / "easy-vqa" / "results.json").read_text())
    path.write_text(yaml.safe_dump(results["config"]), encoding="utf-8")
    assert words not in findings_page(tmp_path)
    path.write_text(yaml.safe_dump(results["config"] | {"test_items": 7}), encoding="utf-8")
    assert findings_page(tmp_path).count(words) == 1
    assert words in findings_page(tmp_path).partition("### easy-vqa")[2].partition("\n### ")[0]


def test_goals_stand_before_the_comparisons_and_every_configuration_without_results_is_named(tmp_path: Path) -> None:
    (tmp_path / "results").symlink_to(COMMITTED / "results")
    (tmp_path / "configs").symlink_to(COMMITTED / "configs")
    text = sections(findings_page(tmp_path))["Comparisons"]
    assert goals_markdown(comparisons(COMMITTED / "results")) in text.partition("### easy-vqa")[0]
    run = {path.parent.name for path in (COMMITTED / "results").glob("*/results.json")}
    missing = {path.name for path in (COMMITTED / "configs").glob("*.yaml") if path.stem not in run}
    named = [line for line in text.splitlines() if line.startswith("- Not run, or not committed: ")]
    assert {line.removesuffix("`.").rpartition("/")[2] for line in named} == missing
    assert len(named) == len(missing)


def test_a_check_writes_nothing_and_notices_what_is_out_of_date(tmp_path: Path) -> None:
    report(tmp_path, protocol(tmp_path, "good"), "supported: all predictions hold", "holds")
    assert main([str(tmp_path), "--check"]) == 1
    assert not (tmp_path / FILE).exists()
    assert main([str(tmp_path)]) == 0
    assert main([str(tmp_path), "--check"]) == 0
    protocol(tmp_path, "another")
    assert write_findings(tmp_path, check=True) is False


def test_damaged_results_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "results" / "x" / "results.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(UserError, match=r"results .*x/results\.json: not valid JSON"):
        findings_page(tmp_path)
    with pytest.raises(SystemExit) as exit_code:
        main([str(tmp_path)])
    assert exit_code.value.code == 2


def test_the_committed_findings_are_current() -> None:
    assert write_findings(COMMITTED, check=True), f"python -m archlab.compare.grid.findings {COMMITTED.name}"
