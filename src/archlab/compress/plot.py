"""Accuracy against latency of every variant, as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from archlab.compare.scores import ARMS, NAMES
from archlab.compress.results import QUESTIONS, at_smallest
from archlab.ticks import plain_log
from archlab.train.folder import atomic_write

# Okabe and Ito's colours, which the colour-blind can tell apart; the marker tells the runtime.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a828c")
_MARKERS = {"torch": "o", "onnx": "s", "onnx-int8": "D"}
_AREA = 40.0  # square points per megabyte


def plot_compression(results: Mapping[str, Any], path: Path) -> None:
    """Draw questions answered on the test split over the median latency of one; a marker's area is the arm's size.

    One panel per arm; bars are 95 % intervals. Nothing is written where no question was timed.
    """
    timed = [row for row in results["rows"] if "choose" in row["latency"] and QUESTIONS in row["scores"]["test"]]
    if not timed:
        return
    arms = [arm for arm in ARMS if any(row["arm"] == arm for row in timed)]
    variants = list(dict.fromkeys(row["variant"] for row in timed))
    colours = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(variants)}
    figure = Figure(figsize=(4.6 * len(arms), 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(arms), sharey=True, squeeze=False)[0]
    for axes, arm in zip(panels, arms, strict=True):
        axes.set_title(NAMES[arm])
        for row in (row for row in timed if row["arm"] == arm):
            _draw(axes, row, colours[row["variant"]])
        axes.set_xscale("log")
        plain_log(axes.xaxis, (1, 2, 3, 4, 6, 8))  # variants are no powers of ten apart
        axes.set_xlabel("choosing an answer, median (ms)")
        axes.grid(linewidth=0.5, alpha=0.4)
    panels[0].set_ylabel("questions, test split (%)")
    shapes = [
        Line2D([], [], color=colour, marker="o", linestyle="none", label=name) for name, colour in colours.items()
    ]
    shapes += [
        Line2D([], [], color="#7a828c", marker=marker, linestyle="none", label=name)
        for name, marker in _MARKERS.items()
    ]
    figure.legend(handles=shapes, loc="outside lower center", ncols=4, frameon=False)
    with atomic_write(path) as (partial,):
        figure.savefig(partial, format="png", dpi=120, metadata={"Software": None})


def _draw(axes: Axes, row: Mapping[str, Any], colour: str) -> None:
    score = row["scores"]["test"][QUESTIONS]
    x, value = at_smallest(row["latency"]["choose"])["p50_ms"], 100 * score["value"]
    axes.vlines(x, 100 * score["low"], 100 * score["high"], color=colour, alpha=0.35, linewidth=1)
    area = _AREA * row["footprint"]["bytes"] / 1e6
    axes.scatter([x], [value], s=area, color=colour, marker=_MARKERS[row["runtime"]], alpha=0.75, edgecolors="white")
