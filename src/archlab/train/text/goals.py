"""What the runs on text were to reach, written down before them, beside what they reached.

A run of another seed is recorded as `NAME-seed-N`; a goal is held against the mean of all seeds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from archlab.config import Section, build, load
from archlab.errors import UserError
from archlab.rules import Finite, Named

Runs = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Goal(Section):
    """A score of the trained model, and what it is held against: `at_most`, `at_least` or another row of its table."""

    run: Named
    score: Named
    """A column of the run's table."""
    at_most: Finite | None = None
    at_least: Finite | None = None
    above: str = ""
    """Another model of the table, in the same column."""
    whose: str = ""
    """Where the goal comes from."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.at_most is not None) + (self.at_least is not None) + bool(self.above) != 1:
            raise UserError(f"run={self.run}: a goal needs one of at_most, at_least and above")

    def margin(self, metrics: Mapping[str, Any]) -> float:
        """By how much a run passes the goal; negative where it misses it.

        Raises:
            UserError: the run's table lacks the score or the model that is to be passed.
        """
        reached = self.reached(metrics)
        if self.at_most is not None:
            return self.at_most - reached
        if self.at_least is not None:
            return reached - self.at_least
        rows = {row["model"]: row for row in metrics["table"]}
        if self.above not in rows:
            raise UserError(f"goal of {self.run}: above={self.above!r} is no model of its table; name one: {[*rows]}")
        return reached - float(rows[self.above][self.score])

    def reached(self, metrics: Mapping[str, Any]) -> float:
        """The score of a run's trained model."""
        row = metrics["table"][-1]
        if self.score not in row:
            raise UserError(f"goal of {self.run}: score={self.score!r} is no column of its table; name one: {[*row]}")
        return float(row[self.score])

    def words(self) -> str:
        """The goal itself."""
        if self.at_most is not None:
            limit = f"at most {self.at_most:g}"
        elif self.at_least is not None:
            limit = f"at least {self.at_least:g}"
        else:
            limit = f"above that of {self.above}"
        return f"{limit} ({self.whose})" if self.whose else limit


@dataclass(frozen=True, kw_only=True)
class Goals(Section):
    """The file of goals."""

    goals: list[dict[str, Any]] = field(default_factory=list)


def read_goals(path: Path) -> list[Goal]:
    """The goals in a YAML file; none where there is no file.

    Raises:
        UserError: a goal is not well-formed.
    """
    return [build(Goal, goal) for goal in load(path, Goals).goals] if path.is_file() else []


def verdicts(goals: Sequence[Goal], runs: Runs) -> list[dict[str, Any]]:
    """A row for each goal; `runs` are the metrics of what was recorded, by name."""
    return [_verdict(goal, runs) for goal in goals]


def _verdict(goal: Goal, runs: Runs) -> dict[str, Any]:
    seeds = [metrics for name, metrics in runs.items() if re.fullmatch(rf"{re.escape(goal.run)}(-seed-\d+)?", name)]
    row: dict[str, Any] = {"run": goal.run, "score": goal.score, "goal": goal.words()}
    if not seeds:
        return row | {"seeds": None, "mean": None, "lowest": None, "highest": None, "verdict": "not run"}
    scores, margins = [goal.reached(metrics) for metrics in seeds], [goal.margin(metrics) for metrics in seeds]
    margin = sum(margins) / len(margins)
    return row | {
        "seeds": len(seeds),
        "mean": sum(scores) / len(scores),
        "lowest": min(scores),
        "highest": max(scores),
        "verdict": f"passed by {margin:.3g}" if margin >= 0 else f"missed by {-margin:.3g}",
    }
