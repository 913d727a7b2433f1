"""What the card of an export says of int8: what it costs at the task, and whether it is what is served."""

from __future__ import annotations

from archlab.documents import escape, table
from archlab.export.manifest import POINT, Accuracy

HEADER = ("metric", "items", "float32", "int8", "points lost")
_HEADING = "## int8"


def verdict(accuracy: Accuracy) -> str:
    """What the service makes of it, in a few words."""
    return "the service prefers it" if accuracy.kept else "the service takes it only when asked to"


def rows(accuracy: Accuracy) -> list[list[str]]:
    """The rows under `HEADER`."""
    return [
        [metric, str(score.items), f"{score.fp32:.4f}", f"{score.int8:.4f}", f"{score.lost / POINT:+.2f}"]
        for metric, score in accuracy.scores.items()
    ]


def with_accuracy(card: str, accuracy: Accuracy) -> str:
    """The card of a run, and below it what int8 costs."""
    measured = table(HEADER, [[escape(cell) for cell in row] for row in rows(accuracy)])
    said = f"Dynamic int8 beside float32 on the {accuracy.split} split: {verdict(accuracy)}."
    return f"{card.rstrip()}\n\n{_HEADING}\n\n{said}\n\n{measured}\n"


def served_as_int8(card: str) -> str:
    """The card of an export, which says under its title that int8 is what is served."""
    title, _, rest = card.partition("\n")
    cost = "what that costs stands at the end" if _HEADING in card else "what that costs was not measured"
    return f"{title}\n\n**Served as:** dynamic int8 of the weights described here; {cost}.\n{rest}"
