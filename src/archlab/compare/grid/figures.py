"""Figures of a grid's report: scores of many arms over the levels of a factor and over training, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from archlab.compare import formatting as show
from archlab.compare.grid.summary import Estimate
from archlab.compare.plots import Panel, as_svg, drawing

# Okabe and Ito's colours, which the colour-blind can tell apart; marker and line differ too.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a828c")
_MARKERS = "oDs^vPX"
_LINES = ("-", "--", "-.", ":")
_WIDTH = 5.6  # inches

Series = Mapping[str, Sequence[tuple[float, Estimate]]]
"""Arm -> points (x, estimate)."""


def lines(
    name: str, title: str, series: Series, unit: str, x_label: str, marks: Sequence[float] | None = None
) -> Panel:
    """Scores over numbers, on a logarithmic axis that may begin with 0, with intervals over seeds where there are any.

    Args:
        marks: numbers to write at the axis; by default those of the points.
    """
    ticks = sorted(marks or {x for points in series.values() for x, _ in points})

    def draw(axes: Axes) -> None:
        for index, (arm, points) in enumerate(series.items()):
            style = _style(index)
            x, values = [x for x, _ in points], [_scaled(one.value, unit) for _, one in points]
            axes.plot(x, values, markersize=5, label=arm, **style)
            low, high = ([_scaled(_end(one, end), unit) for _, one in points] for end in ("low", "high"))
            axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
        if ticks[0] > 0:
            axes.set_xscale("log")
        else:  # linear up to the first number above 0
            axes.set_xscale("symlog", linthresh=ticks[1], linscale=0.5)
        axes.set_xticks(ticks if len(ticks) < 7 else ticks[:: len(ticks) // 5])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.minorticks_off()
        axes.set_xlabel(x_label)
        axes.set_ylabel("%" if unit in show.SHARES else unit)

    return _panel(name, title, _describe(series, unit, x_label), draw, 3.4 + 0.2 * len(series))


def dots(name: str, title: str, estimates: Mapping[str, Estimate], unit: str) -> Panel:
    """One score per arm with its interval over seeds, and the seeds themselves."""

    def draw(axes: Axes) -> None:
        rows = np.arange(len(estimates))[::-1]
        for index, (row, one) in enumerate(zip(rows, estimates.values(), strict=True)):
            style = _style(index)
            value, low, high = (_scaled(number, unit) for number in (one.value, _end(one, "low"), _end(one, "high")))
            axes.plot([low, high], [row, row], color=style["color"], linewidth=2)
            axes.plot([value], [row], color=style["color"], marker=style["marker"], markersize=7, linestyle="none")
            seeds = [_scaled(number, unit) for number in one.per_seed.values()]
            axes.plot(seeds, [row - 0.22] * len(seeds), color=style["color"], marker="|", linestyle="none")
        axes.set_yticks(rows, list(estimates))
        axes.set_ylim(-0.7, len(estimates) - 0.3)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("%" if unit in show.SHARES else unit)

    text = "; ".join(f"{arm} {show.score(one.to_dict(unit))}" for arm, one in estimates.items())
    return _panel(name, title, f"{title}: {text}.", draw, 1.2 + 0.42 * len(estimates), legend=False)


def _panel(
    name: str, title: str, description: str, draw: Callable[[Axes], None], height: float, legend: bool = True
) -> Panel:
    with drawing(_WIDTH, height) as figure:
        axes = figure.subplots()
        draw(axes)
        if legend:
            _legend(figure, axes)
        return Panel(title, description, as_svg(figure, name))


def _legend(figure: Figure, axes: Axes) -> None:
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)


def _style(index: int) -> dict[str, Any]:
    return {
        "color": _COLOURS[index % len(_COLOURS)],
        "marker": _MARKERS[index % len(_MARKERS)],
        "linestyle": _LINES[index % len(_LINES)],
    }


def _describe(series: Series, unit: str, x_label: str) -> str:
    parts = [
        f"{arm}: " + ", ".join(f"{show.score(one.to_dict(unit))} at {x:g}" for x, one in points)
        for arm, points in series.items()
    ]
    return f"By {x_label}. {'; '.join(parts)}."


def _end(estimate: Estimate, end: str) -> float:
    found = getattr(estimate, end)
    return estimate.value if found is None else float(found)


def _scaled(value: float, unit: str) -> float:
    return 100 * value if unit in show.SHARES else value
