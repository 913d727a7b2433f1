"""The report of a protocol, generated from its cells alone: `report.md`, `report.html`, and an SVG of every figure.

`results.json` beside them has what the predictions came to, for `grid.findings` to read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from archlab.compare import formatting as show
from archlab.compare import monitoring
from archlab.compare.grid import figures
from archlab.compare.grid.cells import Row, place
from archlab.compare.grid.protocol import BUDGET, Levels, Protocol
from archlab.compare.grid.summary import (
    CONTROLS,
    Estimate,
    Found,
    best_rates,
    blind_controls,
    conclude,
    difference,
    judge,
    of_runs,
    of_trial,
    on_validation,
    over_seeds,
    score_at,
)
from archlab.compare.plots import Panel, standalone
from archlab.compare.report.blocks import Section, Table, capital, plain, section
from archlab.compare.scores import clearly_above, control_label, metric_label, split_label
from archlab.config import to_dict
from archlab.evaluate.measure import unit_of
from archlab.train.folder import write_text

RESULTS = "results.json"
_TEMPLATE = Path(__file__).with_name("template.html")
_CAPTION = "caption/cider_d"
_SPOKEN = ("decoder_ceiling", "nearest_caption")
_LEDGER = {
    "images": "training images",
    "steps": "steps",
    "samples": "samples",
    "meaning_entropy": "entropy of meanings, bits",
    "strings": "different targets",
    "string_entropy": "entropy of targets, bits",
    "same_meaning": "pairs of one meaning in a batch",
    "same_string": "pairs of one string in a batch",
}
_FIXED = ("images", "steps", "samples", "meaning_entropy")
_TASKS = {"vqa": "answers", "caption": "captions"}
_WIDEST = 6  # columns of levels; more of them are rows


@dataclass(frozen=True)
class Report:
    """What a report says, before it is laid out.

    Attributes:
        title: name of the protocol.
        head: label -> text: what was written before the run.
        conclusion: the verdict in words.
        sections: the evidence.
    """

    title: str
    head: dict[str, str]
    conclusion: str
    sections: list[Section]


def write_grid_report(name: str, protocol: Protocol, trials: Found, found: Found, out: Path) -> Path:
    """Write `report.md`, `report.html`, `results.json` and `NAME.svg` for every figure.

    Args:
        name: of the protocol.
        trials: the tuning runs. found: the table of the protocol.
        out: folder of the report.

    Returns:
        path of `report.html`.
    """
    results = outcomes(name, protocol, trials, found)
    write_text(out / RESULTS, json.dumps(results, indent=1, allow_nan=False) + "\n")
    return write_pages(make_report(name, protocol, trials, found), out)


def write_pages(report: Report, out: Path) -> Path:
    """Write `report.md`, `report.html` and `NAME.svg` for every figure; returns the path of `report.html`."""
    for section_ in report.sections:
        for key, panel in _panels(section_):
            write_text(out / f"{key}.svg", standalone(panel.svg))
    write_text(out / "report.md", as_markdown(report))
    write_text(out / "report.html", as_html(report))
    return out / "report.html"


def make_report(name: str, protocol: Protocol, trials: Found, found: Found) -> Report:
    """Everything that the finished cells say; what is missing is listed."""
    verdicts = judge(found, protocol)
    head = {
        "Question": protocol.question,
        "Hypothesis": protocol.hypothesis,
        "Decision rule": protocol.decision,
        "Primary metric": f"{metric_label(protocol.primary)} (`{protocol.primary}`), on the split "
        f"{split_label(protocol.split)} unless a factor says otherwise",
    }
    trained, runs = protocol.trained(), of_runs(protocol, found)
    sections = [
        _decision(protocol, found),
        _primary(protocol, found),
        *_also(protocol, found),
        _differences(protocol, found),
        _probes(trained, runs),
        _learning(trained, runs),
        _time(trained, runs),
        _monitors(trained, runs),
        _spoken(trained, runs),
        _language(trained, runs),
        _tuning(trained, trials),
        _cost(trained, runs),
        _cells(protocol, trials, found),
    ]
    kept = [one for one in sections if one.tables or one.figures or one.lines]
    return Report(name, head, conclude(verdicts), kept)


def outcomes(name: str, protocol: Protocol, trials: Found, found: Found) -> dict[str, Any]:
    """What was predicted, what was found, and how much of it is run: the content of `results.json`."""
    verdicts = judge(found, protocol)
    return {
        "protocol": {"name": name, **to_dict(protocol)},
        "conclusion": conclude(verdicts),
        "verdicts": [
            {
                "what": one.what,
                "found": one.estimate.to_dict(unit_of(one.metric)) if one.estimate else None,
                "outcome": one.outcome,
                "why": one.why,
            }
            for one in verdicts
        ],
        "cells": {"finished": len(_finished([*trials, *found])), "of": len(_of_cells([*trials, *found]))},
        "seeds": sorted({row.seed for row, results in found if results is not None}),
        "commits": _commits([*trials, *found]),
    }


def as_markdown(report: Report) -> str:
    """The report as Markdown, with its figures as files beside it."""
    lines = [f"# {report.title}", ""]
    for label, text in report.head.items():
        lines += [f"**{label}.** {' '.join(text.split())}", ""]
    lines += [f"**Verdict: {report.conclusion}.**", ""]
    for one in report.sections:
        lines += [f"## {one.title}", "", one.lead, ""]
        for key, panel in _panels(one):
            lines += [f"![{_cell(panel.description)}]({key}.svg)", ""]
        for table in one.tables:
            lines += [f"| {' | '.join(map(_cell, table.columns))} |", f"|{' --- |' * len(table.columns)}"]
            lines += [f"| {' | '.join(map(_cell, row))} |" for row in table.rows]
            lines += ["", *([table.note, ""] if table.note else [])]
        lines += [*(f"- {line}" for line in one.lines), *([""] if one.lines else [])]
    return "\n".join(lines).rstrip() + "\n"


def as_html(report: Report) -> str:
    """The report as one file that opens from disk, without network and without JavaScript."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    page = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return page.render(report=report, svg=Markup)  # figures are our own drawings


def _decision(protocol: Protocol, found: Found) -> Section:
    rows = []
    for verdict in judge(found, protocol):
        unit = unit_of(verdict.metric)
        seeds = verdict.estimate.per_seed if verdict.estimate else {}
        text = show.difference(verdict.estimate.to_dict(unit), unit) if verdict.estimate else show.NOT_MEASURED
        each = ", ".join(show.difference({"difference": value}, unit) for value in seeds.values())
        rows.append([verdict.what, text, each, verdict.outcome, verdict.why])
    columns = ["predicted", "found", "by seed", "outcome", "because"]
    lead = (
        "What was predicted before the run, and what was found. Intervals are 95 %, of 'within' 90 % (two one-sided "
        "tests at 5 %): by bootstrap over seeds and test images, paired where both are the same; of monitors and means "
        "over learning curves Student's over seeds."
    )
    return section("decision", "Predictions", lead, tables=[Table("Predictions", columns, rows)])


def _primary(protocol: Protocol, found: Found) -> Section:
    label = metric_label(protocol.primary)
    drawn = [(_caption(protocol), panels)] if (panels := _drawn(protocol, found)) else []
    lead = f"{capital(label)}, mean over seeds."
    tables = [_scores(protocol, found, protocol.primary), _controls(protocol, found, protocol.primary)]
    return section("primary", "Primary metric", lead, figures=drawn, tables=tables)


def _also(protocol: Protocol, found: Found) -> list[Section]:
    """One for every metric that stands beside the primary one."""
    return [
        section(_key("also", metric), capital(metric_label(metric)), "Mean over seeds; decides nothing.",
                tables=[_scores(protocol, found, metric), _controls(protocol, found, metric)])
        for metric in protocol.also
    ]  # fmt: skip


def _scores(protocol: Protocol, found: Found, metric: str) -> Table:
    estimates = {
        arm: [score_at(found, protocol, arm, levels, metric) for levels in protocol.combinations()]
        for arm in protocol.arms
    }
    shown = {arm: [_shown(one, unit_of(metric)) for one in ones] for arm, ones in estimates.items() if any(ones)}
    counts = {len(one.per_seed) for ones in estimates.values() for one in ones if one}
    seeds = " to ".join(map(str, sorted({min(counts), max(counts)}))) if counts else "0"
    note = f"Seeds: {seeds}. The interval of a single seed is over test images alone, or there is none."
    return _crossed("Scores", metric_label(metric), protocol, shown, note)


def _crossed(
    caption: str, single: str, protocol: Protocol, shown: Mapping[str, Sequence[str]], note: str = ""
) -> Table:
    """Arms by combinations of levels, the more numerous of which are rows where a page would be too narrow for them.

    Args:
        single: heading of the one column of a protocol without factors.
        shown: arm -> a text for every combination.
    """
    places = [_where(levels) or single for levels in protocol.combinations()]
    if len(places) <= max(_WIDEST, len(shown)):
        return Table(caption, ["arm", *places], [[arm, *texts] for arm, texts in shown.items()], note)
    rows = [list(row) for row in zip(places, *shown.values(), strict=True)] if shown else []
    return Table(caption, ["at", *shown], rows, note)


def _drawn(protocol: Protocol, found: Found) -> list[Panel]:
    """Lines over the one factor whose levels are numbers, at every combination of the others; else dots."""
    unit, label = unit_of(protocol.primary), metric_label(protocol.primary)
    numeric = [
        name
        for name, factor in protocol.factors.items()
        if len(factor.values) > 1 and all(isinstance(value, int | float) and value >= 0 for value in factor.values)
    ]
    panels = []
    for levels in _without(protocol.combinations(), numeric[:1]):
        where = _where(levels)
        title = f"{label}, {where}" if where else label
        key = _key("primary", where)
        if not numeric:
            estimates = {arm: score_at(found, protocol, arm, levels) for arm in protocol.arms}
            if shown := {arm: one for arm, one in estimates.items() if one}:
                panels.append(figures.dots(key, title, shown, unit))
            continue
        series = {}
        for arm in protocol.arms:
            at = [
                (float(step), score_at(found, protocol, arm, levels | {numeric[0]: step}))
                for step in protocol.factors[numeric[0]].values
            ]
            if points := [(step, one) for step, one in at if one]:
                series[arm] = points
        if series:
            panels.append(figures.lines(key, title, series, unit, f"{numeric[0]} (log)"))
    return panels


def _differences(protocol: Protocol, found: Found) -> Section:
    """Every arm minus the first, at every combination of levels."""
    unit, (first, *others) = unit_of(protocol.primary), protocol.arms
    shown = {}
    for arm in others:
        estimates = [difference(found, protocol, arm, first, levels) for levels in protocol.combinations()]
        if any(estimates):
            shown[arm] = [show.difference(one.to_dict(unit), unit) if one else show.NOT_MEASURED for one in estimates]
    lead = f"Every arm minus {first} in the primary metric, paired by seed and image; runs of one seed begin alike."
    tables = [_crossed("Differences", "difference", protocol, shown)]
    return section("differences", f"Against {first}", lead, tables=tables)


def _probes(protocol: Protocol, found: Found) -> Section:
    """Of encoders: every probe beside the primary one."""
    if protocol.recipe != "pretrain":
        return section("probes", "Probes", "")
    metrics = dict.fromkeys(name for _, results in found for name in _tested(results, protocol.split))
    rows = []
    for levels in protocol.combinations():
        for metric in metrics:
            of_arms = [score_at(found, protocol, arm, levels, metric) for arm in protocol.arms]
            what = ", ".join(filter(None, [metric_label(metric), _where(levels)]))
            rows.append([what, *(_shown(one, unit_of(metric)) for one in of_arms)])
    columns = ["probe", *protocol.arms]
    lead = (
        "Accuracy of probes of the frozen features on scenes, and on real images of known classes where an encoder "
        "learned from such, that neither encoder nor probe saw; mean over seeds."
    )
    return section("probes", "Probes", lead, tables=[Table("Probes", columns, rows)])


def _tested(results: Mapping[str, Any] | None, split: str) -> Mapping[str, Any]:
    return ((results or {}).get("test") or {}).get(split) or {}


def _time(protocol: Protocol, found: Found) -> Section:
    """Of encoders: what each has reached once the fastest of them was done."""
    if protocol.recipe != "pretrain":
        return section("time", "Equal time", "")
    unit, metric, rows, panels = unit_of(protocol.primary), protocol.primary, [], []
    for levels in protocol.combinations():
        curves: dict[str, dict[int, list[tuple[float, float]]]] = {}
        for row, results in found:
            points = [(one["seconds"], one["scores"][metric]) for one in (results or {}).get("curve", [])
                      if metric in one["scores"]]  # fmt: skip
            if row.levels == levels and len(points) > 1:
                curves.setdefault(row.arm, {})[row.seed] = points
        if not curves:
            continue
        shortest = min(points[-1][0] for seeds in curves.values() for points in seeds.values())
        series = {}
        for arm, seeds in curves.items():
            reached = {seed: float(np.interp(shortest, *np.transpose(points))) for seed, points in seeds.items()}
            whose = _whose(arm, levels)
            rows.append([whose, show.seconds(shortest), _shown(over_seeds(reached), unit)])
            number = min(map(len, seeds.values()))
            series[arm] = [
                (float(np.mean([points[i][0] for points in seeds.values()])),
                 over_seeds({seed: points[i][1] for seed, points in seeds.items()}))
                for i in range(1, number)
            ]  # fmt: skip
        where = _where(levels)
        title = f"validation by time, {where}" if where else "validation by time"
        panels.append(figures.lines(_key("time", where), title, series, unit, "seconds of training (log)"))
    lead = f"{capital(metric_label(metric))} on validation over the time of training, and after equal time."
    note = "Between two checkpoints a line is drawn. Times are those of cells that shared the machine with others."
    columns = ["run", "after", "validation"]
    drawn = [("Bands are 95 % intervals, Student's over seeds.", panels)] if panels else []
    return section("time", "Equal time", lead, figures=drawn, tables=[Table("After equal time", columns, rows, note)])


def _monitors(protocol: Protocol, found: Found) -> Section:
    """Whether embeddings are alive, of every run that has any."""
    runs: dict[str, list[Mapping[str, Any]]] = {}
    for arm in protocol.arms:
        for levels in protocol.combinations():
            whose = _whose(arm, levels)
            for row, results in found:
                if row.arm == arm and row.levels == levels and results and "monitor" in results:
                    runs.setdefault(whose, []).append(results["monitor"])
    panels = monitoring.panels("monitors", runs)
    lead = "Is the embedding space alive? Measured at every checkpoint, on validation."
    return section(
        "monitors", "Collapse monitors", lead,
        figures=[("Bands are 95 % intervals, Student's over seeds.", panels)] if panels else [],
        tables=[monitoring.table(runs)], lines=monitoring.alarms(runs),
    )  # fmt: skip


def _learning(protocol: Protocol, found: Found) -> Section:
    unit, metric = unit_of(protocol.primary), protocol.primary
    panels = []
    for levels in protocol.combinations():
        series = {}
        for arm in protocol.arms:
            by_step: dict[int, dict[int, float]] = {}
            for row, results in found:
                if row.arm == arm and row.levels == levels and results:
                    for point in results.get("curve", []):
                        if metric in point["scores"] and point["samples"]:  # the axis is logarithmic
                            by_step.setdefault(point["samples"], {})[row.seed] = point["scores"][metric]
            if by_step:
                series[arm] = [(float(samples), over_seeds(values)) for samples, values in sorted(by_step.items())]
        if series:
            where = _where(levels)
            title = f"validation, {where}" if where else "validation"
            panels.append(figures.lines(_key("curve", where), title, series, unit, "samples seen (log)"))
    lead = f"{capital(metric_label(metric))} on validation while training."
    drawn = [("Bands are 95 % intervals, Student's over seeds.", panels)] if panels else []
    return section("learning", "Learning curves", lead, figures=drawn)


def _controls(protocol: Protocol, found: Found, metric: str) -> Table:
    """Every arm beside what it reaches blindly, wherever that is known."""
    unit, rows, known = unit_of(metric), [], set[str]()
    for arm in protocol.arms:
        for levels in protocol.combinations():
            blind = blind_controls(found, protocol, arm, levels, metric)
            own = score_at(found, protocol, arm, levels, metric)
            if own and blind:
                known |= blind.keys()
                above = all(clearly_above(own.to_dict(unit), one.to_dict(unit)) for one in blind.values())
                rows.append((_whose(arm, levels), own, blind, "yes" if above else "no"))
    shown = [name for name in CONTROLS if name in known]
    columns = ["run", "score", *(control_label(name).partition(",")[0] for name in shown), "clearly above all"]
    table = [
        [whose, _shown(own, unit), *(_shown(blind.get(name), unit) for name in shown), above]
        for whose, own, blind, above in rows
    ]
    note = "Clearly above is an interval above the control's. An arm that is not so above its controls wins nothing."
    return Table("Beside its blind controls", columns, table, note)


def _spoken(protocol: Protocol, found: Found) -> Section:
    """What the decoder alone would allow, and what copying would."""
    rows = []
    for arm in protocol.arms:
        for levels in protocol.combinations():
            own = score_at(found, protocol, arm, levels, _CAPTION)
            others = [score_at(found, protocol, arm, levels, _CAPTION, name) for name in _SPOKEN]
            if any(others):
                rows.append([_whose(arm, levels), *(_shown(one, unit_of(_CAPTION)) for one in (own, *others))])
    note = (
        "CIDEr-D against every training wording of the largest dial, whatever a run's own was, with the document "
        "frequencies of these references. The ceiling decodes the embeddings of the true captions."
    )
    columns = ["run", "its captions", *(control_label(name) for name in _SPOKEN)]
    lead = "What the decoder alone would allow, and what is reached by copying."
    return section("spoken", "What the decoder adds", lead, tables=[Table("Captions", columns, rows, note)])


def _language(protocol: Protocol, found: Found) -> Section:
    """The ledger at every level, and whether what must be fixed is; overlaps and similarities."""
    combinations = protocol.combinations()
    ledgers = []
    for levels in combinations:
        of_level = [results["language"]["ledger"] for row, results in found
                    if row.levels == levels and results and results.get("language")]  # fmt: skip
        ledgers.append(of_level)
    if not any(ledgers) or len(combinations) < 2:
        return section("language", "Language", "")
    columns = ["quantity", *(_where(levels) for levels in combinations)]
    rows = [
        [label, *(_mean([one[name] for one in of_level]) for of_level in ledgers)] for name, label in _LEDGER.items()
    ]
    lines = []
    for name in _FIXED:
        values = {round(float(one[name]), 6) for of_level in ledgers for one in of_level}
        spread = "the same in all runs" if len(values) == 1 else f"from {min(values):g} to {max(values):g}"
        lines.append(f"{capital(_LEDGER[name])}: {spread}.")
    overlap = []
    for task, name in _TASKS.items():
        for space, what in (("tokens", "token overlap"), ("embeddings", "similarity of target embeddings")):
            for arm in [""] if space == "tokens" else protocol.arms:
                for pairs in ("within", "between"):
                    similar = [_similarity(found, arm, levels, task, space, pairs) for levels in combinations]
                    if any(similar):
                        whose = f", {arm}" if arm else ""
                        shown = [_mean(one) for one in similar]
                        overlap.append([f"{what} of {name}{whose}, {pairs} meanings", *shown])
    tables = [Table("Ledger", columns, rows), Table("Overlap", columns, overlap)]
    lead = "What training was told at each level, and how far apart the targets lie."
    return section("language", "Language", lead, tables=tables, lines=lines)


def _similarity(found: Found, arm: str, levels: Levels, task: str, space: str, pairs: str) -> list[float]:
    values = []
    for row, results in found:
        if row.levels == levels and (not arm or row.arm == arm) and results:
            one = (results.get("language") or {}).get(task, {}).get(space, {}).get(pairs)
            if one is not None:
                values.append(float(one))
    return values


def _tuning(protocol: Protocol, trials: Found) -> Section:
    rates = protocol.tuning.learning_rates
    best = best_rates(trials, protocol)
    scores: dict[str, dict[float, str]] = {}
    chosen: dict[str, str] = {}
    for row, results in trials:
        levels, rate = of_trial(row.levels)
        whose = _whose(row.arm, levels)
        chosen[whose] = _chosen(best.get((row.arm, place(levels))), rates)
        text = show.NOT_MEASURED
        if results and "diverged" in results:
            text = "diverged"
        elif results:
            text = show.scalar(on_validation(results, protocol), unit_of(protocol.primary))
        scores.setdefault(whose, {})[rate] = text
    rows = [
        [whose, *(tried.get(rate, show.NOT_MEASURED) for rate in rates), chosen[whose]]
        for whose, tried in scores.items()
    ]
    lead = (
        f"Equal trials of {protocol.tuning.steps} steps for every arm, scored on validation by "
        f"{_mean_of(protocol)}; the best is taken. One at the edge may not be the best there is."
    )
    columns = ["run", *(f"{rate:g}" for rate in rates), "chosen"]
    return section("tuning", "Learning rates", lead, tables=[Table("Trials", columns, rows)])


def _chosen(rate: float | None, rates: Sequence[float]) -> str:
    if rate is None:
        return show.NOT_MEASURED
    return f"{rate:g}" + (", at the edge" if rate in (min(rates), max(rates)) else "")


def _mean_of(protocol: Protocol) -> str:
    names = [metric_label(metric) for metric in protocol.tuning.metrics or [protocol.primary]]
    return names[0] if len(names) == 1 else f"the mean of {' and '.join(names)}"


def _cost(protocol: Protocol, found: Found) -> Section:
    rows = []
    for arm in protocol.arms:
        for levels in protocol.combinations():
            done = [results for row, results in found if row.arm == arm and row.levels == levels and results]
            done = [results for results in done if "training" in results]
            if done:
                training, parameters = done[0]["training"], done[0]["parameters"]
                rows.append(
                    [
                        _whose(arm, levels),
                        show.count(parameters["trainable"]),
                        show.count(training["steps"]),
                        show.quantity(training["flops"], "FLOP"),
                        show.seconds(sum(one["training"]["seconds"] for one in done) / len(done)),
                        plain(done[0]["config"]["optimizer"]["learning_rate"]),
                    ]
                )
    columns = ["run", "trainable parameters", "steps", "operations of training", "time of training", "learning rate"]
    note = "Time is the mean over seeds, of cells that shared the machine with others: it says what to expect, no more."
    return section("cost", "Cost", "What each run took.", tables=[Table("Cost", columns, rows, note)])


def _cells(protocol: Protocol, trials: Found, found: Found) -> Section:
    everything = [*trials, *found]
    cells = _of_cells(everything)
    missing = [row.name for row, results in cells if results is None]
    diverged = [f"{row.name}: {results['diverged']}" for row, results in cells if results and "diverged" in results]
    more = any(row.cell.conditions for row, _ in cells)
    places = sum(results is not None for _, results in everything)
    what = "places of the tables" if more else "runs"
    lines = [
        f"{places} of {len(everything)} {what} are finished, in {len(cells) - len(missing)} cells: equal runs are one "
        f"cell{', and some cells ask a finished run and train nothing' if more else ''}."
    ]
    lines += [f"Commits: {', '.join(commits)}."] if (commits := _commits(everything)) else []
    lines += [f"Diverged: {line}." for line in diverged]
    lines += [f"Not run yet: {name}." for name in missing]
    budgets = [name for name, factor in protocol.factors.items() if factor.key == BUDGET]
    lines += [f"The factor {name!r} is the budget: what differs between arms is what it declares." for name in budgets]
    return section("cells", "Cells", "What this report is made of.", lines=lines)


def _of_cells(found: Found) -> Found:
    """Every cell once, in its first place."""
    cells: dict[str, tuple[Row, Mapping[str, Any] | None]] = {}
    for row, results in found:
        cells.setdefault(row.cell.key, (row, results))
    return list(cells.values())


def _finished(found: Found) -> Found:
    return [one for one in _of_cells(found) if one[1] is not None]


def _commits(found: Found) -> list[str]:
    return sorted({show.commit(results.get("git")) for _, results in found if results is not None})


def _shown(one: Estimate | None, unit: str) -> str:
    return show.score(one.to_dict(unit)) if one else show.NOT_MEASURED


def _mean(values: Sequence[float]) -> str:
    """Of equal whole numbers, that number; else three significant digits."""
    if values and len(set(values)) == 1 and isinstance(values[0], int):
        return show.count(values[0])
    return show.significant(sum(values) / len(values)) if values else show.NOT_MEASURED


def _whose(arm: str, levels: Mapping[str, Any]) -> str:
    return ", ".join(filter(None, [arm, _where(levels)]))


def _where(levels: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={plain(level)}" for name, level in levels.items())


def _without(combinations: Sequence[Levels], names: Sequence[str]) -> list[Levels]:
    """The combinations of the other factors."""
    rest = {_where(one): one for one in ({k: v for k, v in c.items() if k not in names} for c in combinations)}
    return list(rest.values())


def _caption(protocol: Protocol) -> str:
    return f"{capital(metric_label(protocol.primary))}; bands and bars are 95 % intervals over seeds and test images."


def _key(kind: str, where: str) -> str:
    """Name of a figure's file."""
    return "-".join(filter(None, [kind, "".join(c if c.isalnum() else "-" for c in where.lower())]))


def _panels(one: Section) -> list[tuple[str, Panel]]:
    """Every figure of a section, under the name of its file."""
    panels = [panel for _, group in one.figures for panel in group]
    return [(f"{one.key}-{number}" if len(panels) > 1 else one.key, panel) for number, panel in enumerate(panels, 1)]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
