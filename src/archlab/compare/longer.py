"""Too few steps, or the frozen features? What a run trained for longer says of the goals that a comparison missed.

python -m archlab.compare.longer DOCUMENT RESULTS [--check]

RESULTS holds the folders of both comparisons, `standard` and `scenes-long`: the same data, arms and learning rate.
"""

from __future__ import annotations

from pathlib import Path

from archlab.compare import formatting as show
from archlab.compare import scores
from archlab.compare.caveats import REFERENCES, Share, shares
from archlab.compare.readme import provenance
from archlab.compare.scores import ARMS, NAMES, Results
from archlab.documents import StrPath, block_command, escape, table, write_block

BLOCK = "longer"
SHORT, LONG = "standard", "scenes-long"
_HEAD = REFERENCES[0]
_COLUMNS = ("better arm", "supervised head", "share")


def limit(short: Results, long: Results, metric: str) -> str:
    """What keeps the arms from more on a kind of question, as far as intervals tell.

    The steps, where the better arm is clearly better after more of them. Else the features or their head, where the
    head that was trained longest does not beat those who lack image or query. Else the test items do not decide.
    """
    before, after = (
        max((scores.score_of(results, arm, metric) or {} for arm in ARMS), key=lambda score: score.get("value", 0.0))
        for results in (short, long)
    )
    if before and after and scores.clearly_above(after, before):
        return "the steps: more of them help"
    head, blind = scores.control_of(long, _HEAD.control, "both", metric), scores.strongest_blind(long, metric)
    if head and blind and not scores.clearly_above(head, blind.score):
        return f"the frozen features, or their head: it is not above {scores.control_label(blind.name)}"
    return "not decided: the intervals overlap"


def longer_markdown(short: Results, long: Results) -> str:
    """Every kind of question before and after, beside the head, and what binds."""
    before, after = ({share.metric: share for share in shares(results, _HEAD)} for results in (short, long))
    both = [metric for metric in before if metric in after]
    steps = [results["arms"][ARMS[0]]["training"]["steps"] for results in (short, long)]
    rows = [
        [
            scores.metric_label(metric),
            *_cells(short, before[metric]),
            *_cells(long, after[metric]),
            limit(short, long, metric),
        ]
        for metric in both
    ]
    header = ["kind", *(f"{column}, {count:,} steps" for count in steps for column in _COLUMNS), "what binds"]
    goal = show.scalar(_HEAD.goal, "accuracy")
    counted = [
        f"{sum(found[metric].reached for metric in both)} of {len(both)} after {count:,} steps"
        for found, count in zip((before, after), steps, strict=True)
    ]
    summary = f"The better arm reaches {goal} of the supervised head in {' and in '.join(counted)}."
    return "\n\n".join(
        [escape(summary), table(header, [[escape(cell) for cell in row] for row in rows]), provenance(long)]
    )


def _cells(results: Results, share: Share) -> list[str]:
    own = scores.score_of(results, share.best, share.metric)
    return [
        f"{NAMES[share.best]} {show.score(own)}",
        show.score(share.score),
        show.scalar(share.of_arm[share.best], "accuracy"),
    ]


def write_longer(document: StrPath, folder: StrPath, check: bool = False) -> bool:
    """Put the comparison of both runs between the markers of a document, or with `check` only look.

    Returns:
        whether the block was up to date already.

    Raises:
        UserError: a file cannot be read, or the markers are missing or out of order.
    """
    short, long = (scores.load_results(Path(folder) / name / "results.json") for name in (SHORT, LONG))
    return write_block(document, BLOCK, longer_markdown(short, long), check=check)


if __name__ == "__main__":
    raise SystemExit(block_command("archlab.compare.longer", write_longer, "the longer run"))
