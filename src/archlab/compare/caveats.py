"""What a reader must know before any verdict: where an arm does no better than a blind one, or far worse than could be.

An arm that scores as its blind control has not used what the control lacks, whichever arm scores higher. A supervised
head on the same frozen features says what those allow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from archlab.compare import formatting as show
from archlab.compare import scores
from archlab.compare.scores import ARMS, NAMES, Control, Results, Score

GOAL = 0.9
"""Share of the supervised head's accuracy that the better arm is to reach, in every kind of question."""


@dataclass(frozen=True)
class Share:
    """The arms beside the supervised head, on one kind of question.

    Attributes:
        metric: of the kind.
        head: score of the supervised head.
        of_arm: arm -> its accuracy over the head's.
    """

    metric: str
    head: Score
    of_arm: dict[str, float]

    @property
    def best(self) -> str:
        """The arm with the larger share."""
        return max(self.of_arm, key=self.of_arm.__getitem__)

    @property
    def reached(self) -> bool:
        """Whether the better arm reaches the goal."""
        return self.of_arm[self.best] >= GOAL


def caveats(results: Results) -> dict[str, list[str]]:
    """Heading -> what it holds of, with intervals; headings that hold of nothing are left out."""
    missed = [share for share in shares(results) if not share.reached]
    found = {
        "Not above the blind control": not_above_blind(results),
        f"Below {show.scalar(GOAL, 'accuracy')} of the supervised head": [_below(results, share) for share in missed],
    }
    return {heading: texts for heading, texts in found.items() if texts}


def not_above_blind(results: Results) -> list[str]:
    """Tasks and kinds of question in which the interval of an arm does not lie above that of its best blind control."""
    texts = []
    for metric in dict.fromkeys((*scores.HEADLINE, *scores.kinds_of(results))):
        weak = {
            arm: (score, blind)
            for arm in ARMS
            if (score := scores.score_of(results, arm, metric))
            and (blind := scores.best_blind(results, arm, metric))
            and not scores.clearly_above(score, blind.score)
        }
        if weak:
            who = "both arms" if len(weak) == len(ARMS) else f"{NAMES[next(iter(weak))]} alone"
            texts.append(f"{scores.metric_label(metric)}, {who}: {_against(weak)}{_ceiling(results, metric)}")
    return texts


def shares(results: Results) -> list[Share]:
    """The arms beside the supervised head on all questions and on each kind; empty where no head was trained."""
    found = []
    for metric in (scores.VQA, *scores.kinds_of(results), scores.CLASSIFICATION):
        head = scores.control_of(results, "supervised_head", "both", metric)
        own = {arm: score for arm in ARMS if (score := scores.score_of(results, arm, metric))}
        if head and head["value"] > 0 and len(own) == len(ARMS):
            found.append(Share(metric, head, {arm: score["value"] / head["value"] for arm, score in own.items()}))
    return found


def _against(weak: Mapping[Any, tuple[Score, Control]]) -> str:
    parts = [
        f"{NAMES[arm]} {show.score(score)} against {show.score(blind.score)} ({scores.control_label(blind.name)})"
        for arm, (score, blind) in weak.items()
    ]
    return ", ".join(parts)


def _ceiling(results: Results, metric: str) -> str:
    """What the frozen features allow, where that was measured: it tells a weak arm from a question beyond them."""
    head = scores.control_of(results, "supervised_head", "both", metric)
    return f"; supervised head {show.score(head)}" if head else ""


def _below(results: Results, share: Share) -> str:
    own = scores.score_of(results, share.best, share.metric)
    return (
        f"{scores.metric_label(share.metric)}: {NAMES[share.best]}, the better arm, {show.score(own)}, which is "
        f"{show.scalar(share.of_arm[share.best], 'accuracy')} of the head's {show.score(share.head)}"
    )
