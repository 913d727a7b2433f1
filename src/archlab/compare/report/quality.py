"""How good the arms are: scores, learning, kinds of question, captions, retrieval, probes, confusions.

A section whose numbers are absent says so with the reason: a reader must not have to guess what was left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from archlab.compare import formatting as show
from archlab.compare import monitoring, plots, scores
from archlab.compare.caveats import REFERENCES, Reference, Share, shares
from archlab.compare.findings import PROBES, probes_of, unit_of, verdict_label
from archlab.compare.report.blocks import DIFFERENCE, EACH_ARM, Section, Table, capital, per_arm, rate, section
from archlab.compare.scores import ARMS, NAMES, Results

_OF_VLJEPA = ("decoder_ceiling", "nearest_caption")
"""Controls of the text decoder, which the token arm has not."""
_COLLAPSE = {"rank": "effective rank", "rankme": "RankMe", "log_batch": "ln B"}


def headline(results: Results) -> Section:
    """Both arms on every task, beside what guessing, blindness and supervision reach."""
    tables = []
    for split in dict.fromkeys(split for arm in ARMS for split in results["arms"][arm].get("test") or {}):
        rows = [
            _headline_row(results, metric, split)
            for metric in scores.HEADLINE
            if any(scores.score_of(results, arm, metric, split) for arm in ARMS)
        ]
        caption = f"{capital(scores.split_label(split))} split"
        columns = ["task", *EACH_ARM, DIFFERENCE, "verdict", "chance"]
        if split == scores.TEST:
            columns += [
                *(f"best blind control, {NAMES[arm]}" for arm in ARMS),
                *map(scores.control_label, _seen(results)),
            ]
        tables.append(Table(caption, columns, rows))
    lead = (
        "How good is each arm, and is it better than not looking? Intervals are 95 %, over test images"
        f"{' and seeds' if not scores.one_seed(results) else ' only: they say nothing about another training run'}. "
        "A blind control is the best score without the image, or for questions without the query."
    )
    lines = [
        f"{capital(scores.metric_label(metric))}: not measured on both arms, {scores.why_missing(results, metric)}."
        for metric in scores.HEADLINE
        if tables and not scores.measured(results, metric)
    ]
    return section("headline", "Scores", lead, tables=tables, lines=lines, reason="no test split was scored")


def learning(results: Results) -> Section:
    """Learning curves."""
    panels = plots.learning_curves(results)
    caption = "Validation score over training samples. Bands are 95 % intervals."
    return section(
        "learning",
        "Learning curves",
        "How fast does each arm learn from the same batches in the same order?",
        figures=[(caption, panels)] if panels else [],
        reason="no curve of both arms was recorded",
    )


def efficiency(results: Results) -> Section:
    """What a score costs, and where training converged."""
    rows = []
    for row in results.get("efficiency") or ():
        metric, costs = row["metric"], [row.get(arm) for arm in ARMS]
        token, vljepa = (cost or {} for cost in costs)
        rows.append(
            [
                f"{scores.metric_label(metric)}: {show.threshold(row['threshold'], unit_of(results, metric))}",
                *(_samples(cost) for cost in costs),
                *(show.quantity(cost["flops"], "FLOP") if cost else "not reached" for cost in costs),
                *(show.seconds(cost["seconds"]) if cost else "not reached" for cost in costs),
                show.times(token.get("seconds"), vljepa.get("seconds")) if token and vljepa else "–",
            ]
        )
    tables = []
    if rows:
        columns = [
            "to reach",
            *per_arm("samples"),
            *per_arm("operations"),
            *per_arm("time"),
            "time, token / VL-JEPA",
        ]
        note = (
            "Scores are those of the validation checkpoints, without interpolation: the true crossing lies after the "
            "checkpoint named first. Times were measured in one run and compare as ratios."
        )
        tables.append(Table("Cost of reaching a score", columns, rows, note))
    if converged := _convergence(results):
        columns = ["metric", *per_arm("step"), *per_arm("samples"), *per_arm("operations"), *per_arm("time")]
        note = (
            "Up to the first checkpoint within 1 % (relative) of the final score. Where that is the last one, the run "
            "was too short to see the score settle: all of its cost is a lower bound."
        )
        tables.append(Table("Cost of converging", columns, converged, note))
    return section(
        "efficiency", "Training efficiency", "What does a score cost to train?", tables=tables,
        reason="no score is above chance in both arms, or no curve was recorded",
    )  # fmt: skip


def kinds(results: Results) -> Section:
    """Accuracy for each kind of question."""
    panels = plots.kinds(results)
    names = scores.kinds_of(results)
    rows = [
        [
            name,
            *(show.score(scores.score_of(results, arm, metric)) for arm in ARMS),
            show.difference(scores.paired_of(results, metric), unit_of(results, metric)),
            verdict_label(scores.decide(results, metric)[0]),
            *_context(results, metric),
        ]
        for metric, name in names.items()
    ]
    columns = ["kind", *EACH_ARM, DIFFERENCE, "verdict", "chance", *per_arm("best blind control")]
    columns += map(scores.control_label, _seen(results))
    tables = [Table("Accuracy by kind of question, test split", columns, rows)] if rows else []
    tables += [_shares(reference, found) for reference in REFERENCES if (found := shares(results, reference))]
    if (readouts := _readouts(results)).rows:
        tables.append(readouts)
    caption = "Arms with 95 % intervals; grey signs are controls."
    return section(
        "kinds", "Kinds of question", "Which questions does each arm answer?",
        figures=[(caption, panels)] if panels else [], tables=tables,
        reason=scores.untested(results, "questions", "vqa", default="no questions were scored"),
    )  # fmt: skip


def _shares(reference: Reference, found: Sequence[Share]) -> Table:
    """The arms beside what the frozen features allow, or beside what freezing them cost."""
    label, goal = scores.control_label(reference.control), show.scalar(reference.goal, "accuracy")
    rows = [
        [
            scores.metric_label(share.metric),
            show.score(share.score),
            *(show.scalar(share.of_arm[arm], "accuracy") for arm in ARMS),
            "reached" if share.reached else "missed",
        ]
        for share in found
    ]
    missed = [scores.metric_label(share.metric) for share in found if not share.reached]
    note = (
        f"Accuracy of an arm over that of a {reference.what}. "
        f"Goal: {goal} for the better arm, {'missed by ' + ', '.join(missed) if missed else 'reached everywhere'}."
    )
    columns = ["kind", label, *EACH_ARM, f"goal: {goal}"]
    return Table(f"Share of the accuracy of the {label}, test split", columns, rows, note)


def _readouts(results: Results) -> Table:
    """Both ways to read an answer off the token arm's log-probabilities."""
    ways = {metric: metric.replace("vqa/", "vqa_normalised/") for metric in (scores.VQA, *scores.kinds_of(results))}
    rows = [
        [scores.metric_label(summed), *(show.score(scores.score_of(results, "token", m)) for m in (summed, normalised))]
        for summed, normalised in ways.items()
        if scores.score_of(results, "token", normalised)
    ]
    note = "Everywhere else the token arm answers with the candidate of the highest summed log-probability."
    columns = ["kind", "summed log-probability", "length-normalised log-probability"]
    return Table("Read-outs of the token arm, test split", columns, rows, note)


def captions(results: Results) -> Section:
    """Free text, with the ceiling of the decoder and the control that copies."""
    metrics = [m for m in scores.metrics_of(results) if m.startswith("caption/")]
    controls = ("decoder_ceiling", "nearest_caption", "shuffled_image", "trained_blind")
    present = [name for name in controls if (results.get("controls") or {}).get(name)]
    rows = []
    for metric in metrics:
        cells = [show.score(scores.score_of(results, arm, metric)) for arm in ARMS]
        decided = [
            show.difference(scores.paired_of(results, metric), unit_of(results, metric)),
            verdict_label(scores.decide(results, metric)[0]),
        ]
        rows.append([scores.metric_label(metric), *cells, *decided])
    tables = [Table("Captions, test split", ["metric", *EACH_ARM, DIFFERENCE, "verdict"], rows)] if rows else []
    beside = [
        [f"{scores.metric_label(metric)}: {scores.control_label(name)}"]
        + [
            "does not apply"
            if name in _OF_VLJEPA and arm == "token"
            else show.score(scores.control_of(results, name, arm, metric))
            for arm in ARMS
        ]
        for metric in metrics
        for name in present
        if any(scores.control_of(results, name, arm, metric) for arm in ARMS)
    ]
    if beside and rows:
        note = (
            "Decoder ceiling: captions spoken from the embeddings of the true captions. Nearest training caption: "
            "copied from the training set. A decoder below the copy has said nothing of its own."
        )
        tables.append(Table("Ceiling and controls", ["metric and control", *EACH_ARM], beside, note))
    return section(
        "captions", "Captions", "What does each arm say freely? CIDEr-D measures wording, facts whether it is true.",
        tables=tables,
        reason=scores.untested(results, "text generation", "captioning", default="no captions were scored"),
    )  # fmt: skip


def retrieval(results: Results) -> Section:
    """Recall in both directions; the token arm both ways."""
    rows = []
    floor = "retrieval_floor" if (results.get("controls") or {}).get("retrieval_floor") else ""
    for metric in (m for m in scores.metrics_of(results) if m.startswith("retrieval")):
        cells = [scores.score_of(results, arm, metric) for arm in ARMS]
        one = next(cell for cell in cells if cell)
        rows.append(
            [
                scores.metric_label(metric),
                *map(show.score, cells),
                show.difference(scores.paired_of(results, metric), unit_of(results, metric)) if all(cells) else "–",
                verdict_label(scores.decide(results, metric)[0]) if all(cells) else "–",
                show.count(one.get("n")),
                _chance(one, one["unit"]),
                *_blind(results, metric),
                *([show.score(scores.control_of(results, floor, "both", metric))] if floor else []),
            ]
        )
    columns = ["direction", *EACH_ARM, DIFFERENCE, "verdict", "gallery", "chance", *per_arm("best blind control")]
    columns += [scores.control_label(floor)] if floor else []
    note = (
        "VL-JEPA compares embeddings by cosine. The token arm has two ways: the cosine of pooled trunk states through "
        "a linear map fitted on training captions, and the likelihood of the caption corrected for its prior (PMI), "
        "which is slow: it stands beside VL-JEPA's cosine among fewer captions. Items with the same meaning are all "
        "right, but where it says own item only; equal similarities count in expectation over a random order."
    )
    if floor:
        note += (
            " The regression reads histograms of gradients and colours and predicts TF-IDF weights of the caption's "
            "words: what is reached without a representation of the image."
        )
    panels = plots.retrieval(results)
    return section(
        "retrieval", "Retrieval", "Can the right text be found for an image, and the right image for a text?",
        figures=[("Recall with 95 % intervals; the dotted line is chance.", panels)] if panels else [],
        tables=[Table("Recall, test split", columns, rows, note)] if rows else [],
        reason=scores.untested(results, "retrieval", default="no captions to retrieve were scored"),
    )  # fmt: skip


def probes(results: Results) -> Section:
    """What the trunks know, and whether the embedding space is alive."""
    tables = []
    for method, targets in probes_of(results).items():
        rows = [
            [
                target.replace("_", " "),
                *(show.score(row.get(source)) for source in (*ARMS, "features")),
                verdict_label(scores.decide(results, f"probe/{method}/{target}")[0]),
            ]
            for target, row in targets.items()
        ]
        columns = ["target", *EACH_ARM, "frozen features, without the question", "verdict"]
        tables.append(Table(f"{capital(PROBES[method])} probe, test split", columns, rows))
    lines = []
    if collapse := results.get("collapse"):
        numbers = [
            f"{_COLLAPSE.get(name, name.replace('_', ' '))} {_numbers(value)}"
            for name, value in collapse.items()
            if name != "verdict"
        ]
        lines.append(
            f"Embedding space of VL-JEPA: {collapse.get('verdict', 'no verdict')}. Measured: {'; '.join(numbers)} "
            "(predicted, then target, where there are two)."
        )
    watched = {NAMES["vljepa"]: seeds} if (seeds := results.get("monitor")) else {}
    panels = monitoring.panels("monitor", watched)
    tables += [monitoring.table(watched)]
    lines += [f"Alarm, {line}" for line in monitoring.alarms(watched)]
    return section(
        "probes", "Representation", "What can be read off the pooled trunk states, beside the frozen features alone?",
        figures=[("The embedding space while training; bands are intervals over seeds.", panels)] if panels else [],
        tables=tables, lines=lines,
        reason=scores.untested(results, "probes", "representation quality", default="this run made no probes"),
    )  # fmt: skip


def confusions(results: Results) -> Section:
    """Confusion matrices."""
    figures = [
        (f"{capital(kind.replace('_', ' '))}: rows are right answers, columns what was answered.", panels)
        for kind, panels in plots.confusion(results).items()
        if panels
    ]
    return section(
        "confusion", "Confusions", "Which answers are mistaken for which? Counts of the first seed, test split; "
        "brightness is the share of the row.", figures=figures,
        reason=scores.untested(results, "confusion", "questions", default="no questions were scored"),
    )  # fmt: skip


def _numbers(value: Any) -> str:
    """One number, or two: of the predictions and of the targets."""
    return ", ".join(map(rate, value)) if isinstance(value, list) else rate(value)


def _headline_row(results: Results, metric: str, split: str) -> list[str]:
    unit = unit_of(results, metric)
    row = [
        scores.metric_label(metric),
        *(show.score(scores.score_of(results, arm, metric, split)) for arm in ARMS),
        show.difference(scores.paired_of(results, metric, split), unit),
        verdict_label(scores.decide(results, metric, split)[0]),
    ]
    if split == scores.TEST:
        return row + _context(results, metric)
    return [*row, _chance(scores.score_of(results, "token", metric, split) or {}, unit)]


def _context(results: Results, metric: str) -> list[str]:
    """Chance, the best blind control of each arm, and the controls of `_seen`."""
    score = next((one for arm in ARMS if (one := scores.score_of(results, arm, metric))), {})
    seen = [show.score(scores.control_of(results, name, "token", metric)) for name in _seen(results)]
    return [_chance(score, unit_of(results, metric)), *_blind(results, metric), *seen]


def _seen(results: Results) -> list[str]:
    """Controls that see the image: the supervised head, and what else answers were held against."""
    present = results.get("controls") or {}
    return ["supervised_head", *(name for name in ("end_to_end", "image_floor") if present.get(name))]


def _chance(score: Mapping[str, Any], unit: str) -> str:
    """The score of guessing; free text has none."""
    return show.scalar(score["chance"], unit) if "chance" in score else "–"


def _blind(results: Results, metric: str) -> list[str]:
    found = [scores.best_blind(results, arm, metric) for arm in ARMS]
    return [
        f"{show.score(one.score)} ({scores.control_label(one.name)})" if one else show.NOT_MEASURED for one in found
    ]


def _convergence(results: Results) -> list[list[str]]:
    steps = results.get("convergence") or {}
    rows = []
    for metric in dict.fromkeys(metric for arm in ARMS for metric in steps.get(arm) or {}):
        found: dict[str, Any] = {arm: (steps.get(arm) or {}).get(metric) for arm in ARMS}
        points = [_checkpoint(results, arm, metric, step) for arm, step in found.items()]
        unseen: dict[str, bool] = {
            arm: step is not None and step == (results["arms"][arm].get("training") or {}).get("steps")
            for arm, step in found.items()
        }
        forms: dict[str, Callable[[Any], str]] = {
            "samples": show.count,
            "flops": lambda value: show.quantity(value, "FLOP"),
            "seconds": show.seconds,
        }
        row = [f"{show.count(step)}{' (the last: not seen)' if unseen[arm] else ''}" for arm, step in found.items()]
        for key, form in forms.items():
            row += [
                f"{'≥ ' if unseen[arm] else ''}{form(point.get(key))}" for arm, point in zip(ARMS, points, strict=True)
            ]
        rows.append([scores.metric_label(metric), *row])
    return rows


def _checkpoint(results: Results, arm: str, metric: str, step: int | None) -> Mapping[str, Any]:
    """The point of a learning curve at a step; empty where there is none."""
    curve = (results["arms"][arm].get("curves") or {}).get(metric) or ()
    return next((point for point in curve if point["step"] == step), {})


def _samples(cost: Mapping[str, Any] | None) -> str:
    if not cost:
        return "not reached"
    before = cost.get("samples_before")
    return f"{show.count(before)} – {show.count(cost['samples'])}" if before else f"≤ {show.count(cost['samples'])}"
