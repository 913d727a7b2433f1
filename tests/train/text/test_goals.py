from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from archlab.errors import UserError
from archlab.train.text.goals import Goal, read_goals, verdicts


def measured(loss: float, floor: float = 1.7) -> dict[str, Any]:
    return {"table": [{"model": "5-gram", "loss": floor}, {"model": "GPT-2", "loss": loss}]}


def verdict(goal: Goal, **runs: dict[str, Any]) -> dict[str, Any]:
    return verdicts([goal], {name.replace("_", "-"): metrics for name, metrics in runs.items()})[0]


def test_a_goal_is_held_against_the_mean_of_all_seeds() -> None:
    goal = Goal(run="small", score="loss", at_most=1.88)
    row = verdict(goal, small=measured(1.89), small_seed_1=measured(1.85), smaller=measured(9.0))
    assert row["seeds"] == 2
    assert (row["lowest"], row["highest"]) == (1.85, 1.89)
    assert row["mean"] == pytest.approx(1.87)
    assert row["verdict"] == "passed by 0.01"


def test_what_is_too_high_misses_a_limit_from_above_and_passes_one_from_below() -> None:
    assert verdict(Goal(run="a", score="loss", at_most=1.88), a=measured(1.9))["verdict"] == "missed by 0.02"
    assert verdict(Goal(run="a", score="loss", at_least=1.88), a=measured(1.9))["verdict"] == "passed by 0.02"


def test_a_goal_may_be_another_model_of_the_table() -> None:
    goal = Goal(run="a", score="loss", above="5-gram")
    assert verdict(goal, a=measured(1.9))["verdict"] == "passed by 0.2"
    assert verdict(goal, a=measured(1.5))["verdict"] == "missed by 0.2"


def test_a_goal_whose_run_was_not_recorded_says_so() -> None:
    assert verdict(Goal(run="b", score="loss", at_most=1.0), a=measured(0.5))["verdict"] == "not run"


def test_a_goal_needs_one_limit() -> None:
    with pytest.raises(UserError, match="run=a: a goal needs one of at_most, at_least and above"):
        Goal(run="a", score="loss")
    with pytest.raises(UserError, match="needs one of"):
        Goal(run="a", score="loss", at_most=1.0, above="5-gram")


def test_a_score_or_a_model_that_the_table_lacks_is_named_with_those_it_has() -> None:
    with pytest.raises(UserError, match=r"score='bleu' is no column of its table; name one: \['model', 'loss'\]"):
        verdict(Goal(run="a", score="bleu", at_most=1.0), a=measured(1.0))
    with pytest.raises(UserError, match=r"above='6-gram' is no model of its table; name one: \['5-gram', 'GPT-2'\]"):
        verdict(Goal(run="a", score="loss", above="6-gram"), a=measured(1.0))


def test_goals_are_read_from_a_file_and_there_need_be_none(tmp_path: Path) -> None:
    assert read_goals(tmp_path / "goals.yaml") == []
    (tmp_path / "goals.yaml").write_text("goals:\n  - {run: a, score: loss, at_most: 1.5, whose: me}\n")
    assert [goal.words() for goal in read_goals(tmp_path / "goals.yaml")] == ["at most 1.5 (me)"]
    (tmp_path / "goals.yaml").write_text("goals:\n  - {run: a, skore: loss}\n")
    with pytest.raises(UserError, match="did you mean 'score'"):
        read_goals(tmp_path / "goals.yaml")
