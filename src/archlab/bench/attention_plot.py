"""Time and memory of attention layers over the length of the sequence, as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from archlab.ticks import plain_log
from archlab.train.folder import atomic_write


def plot(results: Mapping[str, Any], path: Path) -> None:
    """Draw the results of `bench.attention.bench_attention` into a PNG file.

    One column for each mask and pass: the ratio of times to the peer's above, the memory allocated at once below.
    """
    sections = results["sections"]
    figure = Figure(figsize=(3.3 * len(sections), 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, len(sections), sharex=True, sharey="row", squeeze=False)
    for (ratios, memory), section in zip(grid.T, sections, strict=True):
        ratios.set_title(f"{'causal' if section['causal'] else 'bidirectional'},\n{section['pass']}")
        _ratios(ratios, section)
        _memory(memory, section)
        _lengths(memory, section)
    grid[0, 0].set_ylabel("time / time of torch")
    grid[1, 0].set_ylabel("allocated at once (MiB)")
    figure.legend(*grid[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    with atomic_write(path) as (partial,):
        figure.savefig(partial, format="png", dpi=120)


def _ratios(axes: Axes, section: Mapping[str, Any]) -> None:
    for number, name in enumerate(_names(section)):
        found = [shape["contenders"][name]["ratio"] for shape in section["shapes"]]
        style = _style(number)
        axes.plot(_tokens(section), [ratio["value"] for ratio in found], **style)
        low, high = ([ratio[end] for ratio in found] for end in ("low", "high"))
        axes.fill_between(_tokens(section), low, high, color=style["color"], alpha=0.2, linewidth=0)
    _logarithmic(axes)


def _memory(axes: Axes, section: Mapping[str, Any]) -> None:
    for number, name in enumerate(_names(section)):
        peaks = [shape["contenders"][name]["peak_bytes"] / 2**20 for shape in section["shapes"]]
        axes.plot(_tokens(section), peaks, label=name, **_style(number))
    _logarithmic(axes)


def _logarithmic(axes: Axes) -> None:
    axes.set_yscale("log")
    plain_log(axes.yaxis)
    axes.grid(axis="y", linewidth=0.5, alpha=0.4)


def _lengths(axes: Axes, section: Mapping[str, Any]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(_tokens(section), [str(tokens) for tokens in _tokens(section)], rotation=45)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("tokens of a sequence")


def _names(section: Mapping[str, Any]) -> list[str]:
    return list(section["shapes"][0]["contenders"])


def _tokens(section: Mapping[str, Any]) -> list[int]:
    return [shape["tokens"] for shape in section["shapes"]]


def _style(number: int) -> dict[str, Any]:
    """Colour, marker and line of a contender; later ones are thinner, so that equal ones show."""
    return {
        "color": f"C{number}",
        "marker": "os^D"[number],
        "linestyle": ("-", "-", "--", ":")[number],
        "linewidth": 2.4 - 0.4 * number,
        "markersize": 6 - number,
    }
