"""What a reader must know before any verdict: where an arm does no better than a blind one, or far worse than could be.

An arm that scores as its blind control has not used what the control lacks, whichever arm scores higher. A supervised
head on the same frozen features says what those allow, a network trained end to end what freezing them cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from archlab.compare import formatting as show
from archlab.compare import scores
from archlab.compare.scores import ARMS, NAMES, Control, Results, Score


@dataclass(frozen=True)
class Reference:
    """What the better arm is to come close to, in every kind of question.

    Attributes:
        control: its name among the controls.
        goal: share of its accuracy that the better arm is to reach.
        what: it is, as a sentence goes on after "a".
    """

    control: str
    goal: float
    what: str


REFERENCES = (
    Reference("supervised_head", 0.9, "classifier trained once, with the first seed, on the same frozen features"),
    Reference("end_to_end", 0.95, "convolutional network trained once, with the first seed, on the pixels"),
)


FLOORS = {
    "retrieval_floor": (scores.TO_TEXT, scores.TO_IMAGE, *scores.AT_10),
    "image_floor": (scores.CLASSIFICATION, scores.VQA),
}
"""Controls that see the image -> what an arm must do better than they do."""


@dataclass(frozen=True)
class Share:
    """The arms beside a reference, on one kind of question.

    Attributes:
        metric: of the kind.
        goal: of the reference.
        score: of the reference.
        of_arm: arm -> its accuracy over the reference's.
    """

    metric: str
    goal: float
    score: Score
    of_arm: dict[str, float]

    @property
    def best(self) -> str:
        """The arm with the larger share."""
        return max(self.of_arm, key=self.of_arm.__getitem__)

    @property
    def reached(self) -> bool:
        """Whether the better arm reaches the goal."""
        return self.of_arm[self.best] >= self.goal


def caveats(results: Results) -> dict[str, list[str]]:
    """Heading -> what it holds of, with intervals; headings that hold of nothing are left out."""
    found = {"Not above the blind control": not_above_blind(results)}
    for reference in REFERENCES:
        heading = f"Below {show.scalar(reference.goal, 'accuracy')} of the {scores.control_label(reference.control)}"
        found[heading] = [_below(results, share) for share in shares(results, reference) if not share.reached]
    found["Text decoder not above copying the nearest training caption"] = not_above_copy(results)
    for control in FLOORS:
        found[f"Not above a {scores.control_label(control)}"] = not_above_floor(results, control)
    found["Not seen to converge within the run"] = not_converged(results)
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


def not_above_copy(results: Results) -> list[str]:
    """Measures of captions in which VL-JEPA's decoder does no better than copying the nearest training caption."""
    return [
        f"{scores.metric_label(metric)}: {NAMES['vljepa']} {show.score(score)} against {show.score(copy)}"
        for metric in (scores.CIDER, scores.SLOTS)
        if (score := scores.score_of(results, "vljepa", metric))
        and (copy := scores.control_of(results, "nearest_caption", "vljepa", metric))
        and not scores.clearly_above(score, copy)
    ]


def not_above_floor(results: Results, control: str) -> list[str]:
    """Metrics in which an arm does no better than simple means do without learning a representation."""
    texts = []
    for metric in FLOORS[control]:
        floor = scores.control_of(results, control, "both", metric)
        weak = [
            f"{NAMES[arm]} {show.score(score)}"
            for arm in ARMS
            if floor and (score := scores.score_of(results, arm, metric)) and not scores.clearly_above(score, floor)
        ]
        if weak:
            texts.append(f"{scores.metric_label(metric)}: {', '.join(weak)} against {show.score(floor)}")
    return texts


def not_converged(results: Results) -> list[str]:
    """Tasks whose validation score came within 1 % of its end at the last checkpoint only: more steps may tell more."""
    found = results.get("convergence") or {}
    texts = []
    for metric in scores.HEADLINE:
        late = [
            NAMES[arm]
            for arm in ARMS
            if (step := (found.get(arm) or {}).get(metric)) is not None
            and step == (results["arms"][arm].get("training") or {}).get("steps")
        ]
        if late:
            texts.append(f"{scores.metric_label(metric)}, {'both arms' if len(late) == len(ARMS) else late[0]}")
    return texts


def shares(results: Results, reference: Reference) -> list[Share]:
    """The arms beside a reference on all questions and on each kind; empty where it was not trained."""
    found = []
    for metric in (scores.VQA, *scores.kinds_of(results), scores.CLASSIFICATION):
        score = scores.control_of(results, reference.control, "both", metric)
        own = {arm: one["value"] for arm in ARMS if (one := scores.score_of(results, arm, metric))}
        if score and score["value"] > 0 and len(own) == len(ARMS):
            of_arm = {str(arm): value / score["value"] for arm, value in own.items()}
            found.append(Share(metric, reference.goal, score, of_arm))
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
    if not head:
        return ""
    blind = scores.strongest_blind(results, metric)
    weak = ", not above it either" if blind and not scores.clearly_above(head, blind.score) else ""
    return f"; supervised head {show.score(head)}{weak}"


def _below(results: Results, share: Share) -> str:
    own = scores.score_of(results, share.best, share.metric)
    return (
        f"{scores.metric_label(share.metric)}: {NAMES[share.best]}, the better arm, {show.score(own)}, which is "
        f"{show.scalar(share.of_arm[share.best], 'accuracy')} of its {show.score(share.score)}"
    )
