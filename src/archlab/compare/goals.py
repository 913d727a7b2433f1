"""What the comparisons on other people's data were to reach, and how far they are from it: computed, never typed.

python -m archlab.compare.goals README.md 04-comparisons/results [--check]

A goal stands beside what the same run measured of it, or beside a figure that is cited from elsewhere. Whether it is
reached is decided by the better arm, the whole of its interval and of the other's, and more than one seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from archlab.compare import formatting as show
from archlab.compare import scores
from archlab.compare.caveats import REFERENCES
from archlab.compare.findings import unit_of
from archlab.compare.scores import ARMS, NAMES, Results, Score
from archlab.documents import StrPath, block_command, escape, table, write_block

BLOCK = "goals"
_HEADER = ("comparison", "seeds", "goal", "better arm", "held against", "distance", "verdict")


@dataclass(frozen=True)
class Goal:
    """What the better arm is to reach.

    Attributes:
        metric: of the test split.
        control: name of the control that it is held against, or what is cited, in words.
        cited: value that is cited; None where the run measures the control.
        share: of the value that is to be reached.
    """

    metric: str
    control: str
    cited: float | None = None
    share: float = 1.0

    def reference(self, results: Results) -> Score | None:
        """What the arm is held against; None where the run did not measure it."""
        if self.cited is not None:
            return {"value": self.cited, "unit": unit_of(results, self.metric)}
        return scores.control_of(results, self.control, "both", self.metric)

    @property
    def label(self) -> str:
        """The goal in words."""
        least = f"at least {show.scalar(self.share, 'share')} of" if self.share < 1 else "above"
        what = scores.control_label(self.control) if self.cited is None else f"{self.control} (cited)"
        return f"{scores.metric_label(self.metric)}: {least} the {what}"


_END_TO_END = next(one for one in REFERENCES if one.control == "end_to_end")
_CLASSES = (
    Goal(scores.CLASSIFICATION, _END_TO_END.control, share=_END_TO_END.goal),
    Goal(scores.CLASSIFICATION, "image_floor"),
)
_TO_TEXT = scores.AT_10[0]
GOALS = {
    "eurosat": _CLASSES,
    "clothing": _CLASSES,
    "easy-vqa": (Goal(scores.VQA, "question_floor"), Goal(scores.VQA, "CNN + LSTM of a third party", 0.876)),
    "openstax": (Goal(_TO_TEXT, "retrieval_floor"), Goal(_TO_TEXT, "best known regression of that kind", 0.185)),
    "openstax-photo": (Goal(_TO_TEXT, "retrieval_floor"), Goal(_TO_TEXT, "best known regression of that kind", 0.285)),
}
"""Data -> goals; the cited figures are those that the sets bring as notes (`data.sets`)."""


def goals_markdown(comparisons: Mapping[str, Results]) -> str:
    """The table of all goals, comparison by comparison; their names are those of the folders of results."""
    rows = [
        [escape(cell) for cell in (name, str(len(results["seeds"])), *_row(results, goal))]
        for name, results in comparisons.items()
        for goal in GOALS.get(str(results["data"]["name"]).partition(":")[0], ())
    ]
    if not rows:
        return "No comparison that has a goal is committed."
    note = (
        "Distance: the better arm minus what it is held against, or minus the share of it that is the goal. Its "
        "interval is the widest that the 95 % intervals of both allow; the verdict is that of the whole interval, and "
        "one seed decides nothing."
    )
    return "\n\n".join([table(_HEADER, rows), note])


def _row(results: Results, goal: Goal) -> list[str]:
    """Goal, better arm, reference, distance and verdict."""
    found = {arm: one for arm in ARMS if (one := scores.score_of(results, arm, goal.metric))}
    reference = goal.reference(results)
    if not found:
        return [goal.label, show.NOT_MEASURED, show.score(reference), show.NOT_MEASURED, "undecided: not measured"]
    best = max(found, key=lambda arm: found[arm]["value"])
    arm = f"{NAMES[best]} {show.score(found[best])}"
    if reference is None:
        return [goal.label, arm, show.NOT_MEASURED, show.NOT_MEASURED, "undecided: the run did not measure it"]
    distance = _distance(found[best], reference, goal.share)
    shown = show.difference(distance, unit_of(results, goal.metric))
    return [goal.label, arm, show.score(reference), shown, _verdict(results, distance)]


def _distance(score: Score, reference: Score, share: float) -> dict[str, float]:
    """The score minus a share of the reference, with the widest interval that both allow."""
    return {
        "difference": score["value"] - share * reference["value"],
        "low": score["low"] - share * reference.get("high", reference["value"]),
        "high": score["high"] - share * reference.get("low", reference["value"]),
    }


def _verdict(results: Results, distance: Mapping[str, float]) -> str:
    if scores.one_seed(results):
        return "undecided: one seed"
    if distance["low"] > 0:
        return "reached"
    return "missed" if distance["high"] < 0 else "undecided: the interval includes zero"


def write_goals(document: StrPath, folder: StrPath, check: bool = False) -> bool:
    """Put the goals of all comparisons in a folder of results into a document, or with `check` only look.

    Returns:
        whether the block was up to date already.

    Raises:
        UserError: a file cannot be read, or the markers are missing or out of order.
    """
    return write_block(document, BLOCK, goals_markdown(scores.comparisons(Path(folder))), check=check)


if __name__ == "__main__":
    raise SystemExit(block_command("archlab.compare.goals", write_goals, "the goals"))
