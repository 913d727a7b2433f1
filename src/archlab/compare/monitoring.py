"""Collapse monitors in a report: their course over training, where they ended, and the alarms in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from archlab.compare import formatting as show
from archlab.compare.grid import figures
from archlab.compare.grid.summary import Estimate, over_seeds
from archlab.compare.plots import Panel
from archlab.compare.report.blocks import Table

Watched = Mapping[str, Sequence[Mapping[str, Any]]]
"""Run -> what `evaluate.monitor.split_curve` made of it, once for each seed."""

_NUMBERS = {
    "deviation": "deviation per dimension",
    "deviation_predicted": "deviation of predictions",
    "deviation_target": "deviation of targets",
    "spread": "spread",
    "spread_predicted": "spread of predictions",
    "spread_target": "spread of targets",
    "rank": "effective rank",
    "rank_predicted": "rank of predictions",
    "rank_target": "rank of targets",
    "rankme": "RankMe",
    "rankme_predicted": "RankMe of predictions",
    "rankme_target": "RankMe of targets",
    "alignment": "alignment",
    "uniformity": "uniformity",
    "uniformity_predicted": "uniformity of predictions",
    "uniformity_target": "uniformity of targets",
}
_SHARE = "loss over ln B"
_DRAWN = ("deviation", "deviation_target", "spread", "spread_predicted", "spread_target", "rank", "rank_target", _SHARE)
NOTE = (
    "Spread is the mean deviation per dimension of normalised embeddings, times the root of their number: 1 for "
    "directions all over the sphere, 0 for a single one. At a loss of ln B no pair of a batch is told from another."
)


def panels(key: str, runs: Watched) -> list[Panel]:
    """Every quantity over training, a line for each run."""
    drawn: list[Panel] = []
    for name in _DRAWN:
        series = {run: points for run, seeds in runs.items() if (points := _course(seeds, name))}
        if series:
            title = _NUMBERS.get(name, name)
            drawn.append(figures.lines(f"{key}-{len(drawn) + 1}", title, series, title, "steps (log)"))
    return drawn


def table(runs: Watched) -> Table:
    """Every quantity at the last checkpoint, mean over seeds, and the alarm."""
    names = [name for name in _NUMBERS if any(name in _last(one) for seeds in runs.values() for one in seeds)]
    rows = []
    for run, seeds in runs.items():
        values = [[_value(_last(one), name) for one in seeds] for name in [*names, _SHARE]]
        known = [[value for value in of_seeds if value is not None] for of_seeds in values]
        shown = [show.significant(sum(one) / len(one)) if one else show.NOT_MEASURED for one in known]
        rows.append([run, *shown, _alarm(seeds)])
    columns = ["run", *(_NUMBERS[name] for name in names), _SHARE, "alarm"]
    return Table("Monitors at the last checkpoint", columns, rows, NOTE)


def alarms(runs: Watched) -> list[str]:
    """What rang at the end of a run, in words."""
    return [
        f"{run}: {words}."
        for run, seeds in runs.items()
        for words in dict.fromkeys(one["alarm"] for one in seeds if one["alarm"])
    ]


def _course(seeds: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, Estimate]]:
    by_step: dict[int, dict[int, float]] = {}
    for number, one in enumerate(seeds):
        for point in one["points"]:
            value = _value(point, name)
            if value is not None and point["step"]:  # the axis is logarithmic
                by_step.setdefault(point["step"], {})[number] = value
    return [(float(step), over_seeds(values)) for step, values in sorted(by_step.items())]


def _value(point: Mapping[str, Any], name: str) -> float | None:
    if name == _SHARE:
        return point["loss"] / point["log_batch"] if point.get("log_batch") else None
    return point.get(name)


def _last(one: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = one["points"][-1] if one["points"] else {}
    return found


def _alarm(seeds: Sequence[Mapping[str, Any]]) -> str:
    """ "collapsed targets in 3 of 3", or "none"."""
    rung = [one["alarm"].split(":")[0] for one in seeds if one["alarm"]]
    return ", ".join(f"{name} in {rung.count(name)} of {len(seeds)}" for name in dict.fromkeys(rung)) or "none"
