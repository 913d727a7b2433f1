"""Figures of the report, as SVG that follows the page: text takes the colour of the text around it, arms their own.

Every panel is drawn about as wide as a phone, so that a page can stack or tile panels without shrinking their text.
An arm differs from the other in colour, marker and line: colour never carries meaning alone.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from archlab.compare import formatting as show
from archlab.compare import scores
from archlab.compare.findings import MODES, unit_of
from archlab.compare.scores import ARMS, NAMES, Results
from archlab.train.folder import atomic_write

TOKEN, VLJEPA, GREY = "#0072b2", "#d55e00", "#7a828c"
_INK = "#123456"  # stands for the colour of the surrounding text until the figure is finished
_COLOURS = {"token": TOKEN, "vljepa": VLJEPA}
_MARKERS = {"token": "o", "vljepa": "D"}
_LINES = {"token": "-", "vljepa": (0, (5, 1.5))}
_HATCHES = {"token": "", "vljepa": "////"}
_ANSWERED_BY = {"choose": (scores.VQA, scores.CLASSIFICATION), "caption": (scores.CIDER,), "embed": (scores.TO_TEXT,)}
"""What is timed -> the score that the time buys."""

_STYLE = {
    "svg.fonttype": "none",
    "font.size": 11,
    "font.sans-serif": ["DejaVu Sans"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 10.5,
    "lines.linewidth": 2.0,
    "hatch.linewidth": 0.8,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": GREY,
    "axes.titlecolor": _INK,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
}
_WIDTH = 4.9  # inches of 72 points: 353 units


@dataclass(frozen=True)
class Panel:
    """A drawn figure.

    Attributes:
        title: what it shows, in a few words.
        description: its content in words, for those who cannot see it.
        svg: one `<svg>` element to put into a page.
    """

    title: str
    description: str
    svg: str


def learning_curves(results: Results) -> list[Panel]:
    """Validation score over samples seen, with intervals; one panel for each task."""
    return [
        _panel(
            f"curve-{metric}", scores.metric_label(metric), _describe_curve(results, metric), _curve, results, metric
        )
        for metric in (*scores.HEADLINE, *scores.PROBE_CURVES)
        if all(_points(results, arm, metric) for arm in ARMS)
    ]


def accuracy_against_latency(results: Results) -> list[Panel]:
    """Test score over the median latency at each batch size; one panel for each way to ask."""
    panels = []
    for mode, metrics in _ANSWERED_BY.items():
        metric = next((one for one in metrics if scores.measured(results, one)), None)
        timed = [arm for arm in ARMS if _timings(results, arm, mode)]
        if metric and timed:
            text = "; ".join(
                f"{NAMES[arm]} {show.score(scores.score_of(results, arm, metric))} in "
                + ", ".join(f"{show.milliseconds(ms)} at batch {b}" for b, ms in _timings(results, arm, mode))
                for arm in timed
            )
            title = MODES[mode]
            panels.append(_panel(f"latency-{mode}", title, f"{title}: {text}.", _latency, results, mode, metric))
    return panels


def kinds(results: Results) -> list[Panel]:
    """Every question kind with its controls, in one panel."""
    names = scores.kinds_of(results)
    if not names:
        return []
    text = "; ".join(
        f"{name} " + ", ".join(f"{NAMES[arm]} {show.score(scores.score_of(results, arm, m))}" for arm in ARMS)
        for m, name in names.items()
    )
    return [_panel("kinds", "accuracy by kind of question", f"{text}.", _kinds, results, names)]


def retrieval(results: Results) -> list[Panel]:
    """Recall at 1, 5 and 10 in both directions."""
    panels = []
    for direction in ("image_to_text", "text_to_image"):
        metrics = {k: f"retrieval/{direction}_r{k}" for k in (1, 5, 10)}
        metrics = {k: metric for k, metric in metrics.items() if scores.measured(results, metric)}
        if metrics:
            title = direction.replace("_", " ")
            text = "; ".join(
                f"R@{k} "
                + ", ".join(f"{NAMES[arm]} {show.score(scores.score_of(results, arm, metric))}" for arm in ARMS)
                for k, metric in metrics.items()
            )
            panels.append(_panel(f"retrieval-{direction}", title, f"{title}: {text}.", _recall, results, metrics))
    return panels


def confusion(results: Results) -> dict[str, list[Panel]]:
    """Kind of question -> the confusion matrices of both arms."""
    found = {}
    for kind, one in (results.get("confusion") or {}).items():
        panels = []
        for arm in (arm for arm in ARMS if one.get(arm)):
            counts = np.asarray(one[arm])
            right = f"{np.trace(counts)} of {counts.sum()} answers on the diagonal"
            title = f"{NAMES[arm]}: {kind.replace('_', ' ')}"
            panels.append(
                _panel(f"confusion-{kind}-{arm}", title, f"{title}: {right}.", _matrix, one["labels"], counts)
            )
        found[kind] = panels
    return found


def write_hero(results: Results, folder: Path) -> list[Path]:
    """The comparison in one picture: `hero.svg`, which follows a dark page, and `hero.png` on white."""
    paths = [folder / "hero.svg", folder / "hero.png"]
    with atomic_write(*paths) as (svg, png):
        with drawing(9.6, 4.4) as figure:
            _hero(figure, results)
            svg.write_text(standalone(as_svg(figure, "hero")), encoding="utf-8")
        with drawing(9.6, 4.4, ink="#1b1f24") as figure:
            _hero(figure, results)
            figure.savefig(png, format="png", dpi=160, facecolor="white", metadata={"Software": None})
    return paths


def _hero(figure: Figure, results: Results) -> None:
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.25])
    curved = [metric for metric in scores.HEADLINE if all(_points(results, arm, metric) for arm in ARMS)]
    if curved:
        _curve(figure, left, results, curved[0], legend=False)
        left.set_title(f"Learning: {scores.metric_label(curved[0])}", fontsize=11)
    else:
        left.set_axis_off()
    metrics = {
        metric: scores.metric_label(metric)
        for metric in scores.HEADLINE
        if scores.measured(results, metric) and unit_of(results, metric) in show.SHARES
    }
    _kinds(figure, right, results, metrics, legend=False)
    seeds = len(results.get("seeds") or ())
    right.set_title(scores.ONE_SEED if scores.one_seed(results) else f"Test, {seeds} seeds", fontsize=11)
    _legend(figure, right, columns=6)


def _curve(figure: Figure, axes: Axes, results: Results, metric: str, legend: bool = True) -> None:
    unit = unit_of(results, metric)
    for arm in ARMS:
        points = _points(results, arm, metric)
        samples, mean = [point["samples"] for point in points], [_scaled(point["mean"], unit) for point in points]
        low, high = ([_scaled(_or(point.get(end), point["mean"]), unit) for point in points] for end in ("low", "high"))
        axes.fill_between(samples, low, high, color=_COLOURS[arm], alpha=0.18, linewidth=0)
        axes.plot(
            samples, mean, color=_COLOURS[arm], linestyle=_LINES[arm], marker=_MARKERS[arm], markersize=5,
            label=NAMES[arm],
        )  # fmt: skip
    chance = (scores.score_of(results, "token", metric) or {}).get("chance")
    if chance is not None:
        axes.axhline(_scaled(chance, unit), color=GREY, linestyle=":", linewidth=1.5, label="chance")
    axes.set_xscale("log")
    axes.set_xticks(sorted({point["samples"] for arm in ARMS for point in _points(results, arm, metric)})[::2])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.minorticks_off()
    axes.set_xlabel("samples seen (log)")
    axes.set_ylabel(_axis(unit))
    axes.set_ylim(bottom=0)
    if legend:
        _legend(figure, axes)


def _latency(figure: Figure, axes: Axes, results: Results, mode: str, metric: str) -> None:
    unit = unit_of(results, metric)
    ticks = set()
    for arm in ARMS:
        score, timings = scores.score_of(results, arm, metric), _timings(results, arm, mode)
        if not (score and timings):
            continue
        value, error = _whiskers(score, unit)
        milliseconds = [ms for _, ms in timings]
        axes.errorbar(
            milliseconds, [value] * len(timings), yerr=np.repeat(error, len(timings), axis=1), color=_COLOURS[arm],
            marker=_MARKERS[arm], markersize=6, linestyle=_LINES[arm], linewidth=1.2, elinewidth=1.2, capsize=3,
            label=NAMES[arm],
        )  # fmt: skip
        for batch, ms in timings:
            axes.annotate(f"×{batch}", (ms, value), (6, 6), textcoords="offset points", fontsize=10)
        ticks.update(milliseconds)
    axes.set_xscale("log")
    axes.margins(0.12, 0.2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.minorticks_off()
    axes.set_ylim(0, axes.get_ylim()[1] * 1.12)
    axes.set_xticks([value for value in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if _near(value, ticks)])
    axes.set_xlabel("milliseconds a batch, median (log); ×n: batch size")
    axes.set_ylabel(f"{scores.metric_label(metric)}, {_axis(unit)}" if unit not in show.SHARES else _axis(unit))
    _legend(figure, axes)


def _kinds(figure: Figure, axes: Axes, results: Results, metrics: dict[str, str], legend: bool = True) -> None:
    """Horizontal dots with intervals; controls in grey, each with its own sign."""
    rows = np.arange(len(metrics))[::-1].astype(float)
    for (metric, _), row in zip(metrics.items(), rows, strict=True):
        for offset, arm in ((0.14, "token"), (-0.14, "vljepa")):
            score = scores.score_of(results, arm, metric)
            assert score is not None
            value, error = _whiskers(score, "accuracy")
            axes.errorbar(
                [value], [row + offset], xerr=error, color=_COLOURS[arm],
                marker=_MARKERS[arm], markersize=7, elinewidth=2, capsize=0, linestyle="none", label=NAMES[arm],
            )  # fmt: skip
        blind = [one for arm in ARMS if (one := scores.best_blind(results, arm, metric))]
        majority = scores.control_of(results, "majority", "token", metric)
        ceiling = scores.control_of(results, "supervised_head", "token", metric)
        chance = (scores.score_of(results, "token", metric) or {}).get("chance")
        grey: list[tuple[str, str, float | None, str]] = [
            ("best blind control", "x", max((one.score["value"] for one in blind), default=None), "none"),
            ("majority", "|", majority["value"] if majority else None, "full"),
            ("chance", ":", chance, "full"),
            ("supervised head", "^", ceiling["value"] if ceiling else None, "none"),
        ]
        for label, marker, value_or_none, fill in grey:
            if value_or_none is None:
                continue
            if marker == ":":
                axes.vlines(
                    100 * value_or_none, row - 0.4, row + 0.4, color=GREY, linestyle=":", linewidth=1.8, label=label
                )
            else:
                axes.plot(
                    [100 * value_or_none], [row], color=GREY, marker=marker, markersize=8, markeredgewidth=1.6,
                    fillstyle=fill, linestyle="none", label=label,
                )  # fmt: skip
    axes.set_yticks(rows, [name.replace(", ", ",\n").replace(" about", "\nabout").replace("vocabulary ", "vocabulary\n")
                           for name in metrics.values()])  # fmt: skip
    axes.set_ylim(-0.6, len(metrics) - 0.4)
    axes.set_xlim(0, 100)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("%")
    if legend:
        _legend(figure, axes)


def _recall(figure: Figure, axes: Axes, results: Results, metrics: dict[int, str]) -> None:
    places = np.arange(len(metrics))
    for offset, arm in ((-0.2, "token"), (0.2, "vljepa")):
        found = [scores.score_of(results, arm, metric) for metric in metrics.values()]
        values, errors = zip(*(_whiskers(one, "recall") for one in found if one), strict=True)
        axes.bar(
            places + offset, values, 0.36, yerr=np.hstack(errors), color=_COLOURS[arm], hatch=_HATCHES[arm],
            edgecolor="#ffffff", linewidth=0, capsize=3, error_kw={"ecolor": _INK, "elinewidth": 1.2},
            label=NAMES[arm],
        )  # fmt: skip
    for place, metric in zip(places, metrics.values(), strict=True):
        chance = (scores.score_of(results, "token", metric) or {}).get("chance")
        if chance is not None:
            axes.hlines(
                100 * chance, place - 0.42, place + 0.42, color=GREY, linestyle=":", linewidth=2, label="chance"
            )
    axes.set_xticks(places, [f"R@{k}" for k in metrics])
    axes.grid(visible=False, axis="x")
    axes.set_ylabel("%")
    axes.set_ylim(0, 100)
    _legend(figure, axes)


def _matrix(figure: Figure, axes: Axes, labels: Sequence[str], counts: np.ndarray) -> None:
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.pcolormesh(shares, cmap="cividis", vmin=0, vmax=1, edgecolors="none", linewidth=0)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            axes.text(
                column + 0.5, row + 0.52, str(count), ha="center", va="center", fontsize=9 if len(labels) > 8 else 10.5,
                color="#000000" if shares[row, column] > 0.5 else "#ffffff",
            )  # fmt: skip
    middle = np.arange(len(labels)) + 0.5
    short = [label if len(label) <= 14 else f"{label[:13]}…" for label in labels]
    axes.set_xticks(middle, short, rotation=90 if len(labels) > 3 else 0)
    axes.set_yticks(middle, short)
    axes.tick_params(length=0)
    axes.invert_yaxis()
    axes.set_aspect("equal")
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlabel("answered")
    axes.set_ylabel("right answer")


def _panel(name: str, title: str, description: str, draw: Any, *arguments: Any) -> Panel:
    rows = len(arguments[-1]) if draw is _kinds else 0
    height = {_matrix: 4.3, _kinds: 1.4 + 0.5 * rows}.get(draw, 3.5)
    with drawing(_WIDTH, height) as figure:
        draw(figure, figure.subplots(), *arguments)
        return Panel(title, description, as_svg(figure, name))


@contextmanager
def drawing(width: float, height: float, ink: str = _INK) -> Iterator[Figure]:
    """A figure outside pyplot, which would keep it alive."""
    coloured: Any = {key: ink if value == _INK else value for key, value in _STYLE.items()}
    with mpl.rc_context(coloured):
        yield Figure(figsize=(width, height), layout="constrained")


def as_svg(figure: Figure, name: str) -> str:
    """The figure as an element that can stand in a page beside others: own ids, no fixed size, no remote address."""
    name = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s(xmlns(:xlink)?|version|width|height)="[^"]*"', "", svg[: svg.index(">")]) + svg[svg.index(">") :]
    svg = svg.replace("xlink:href", "href")
    used = set(re.findall(r"#([\w-]+)", svg))
    svg = re.sub(r' id="([^"]+)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", svg)
    svg = re.sub(r'(href="|url\()#([\w-]+)', rf"\g<1>#{name}-\g<2>", svg)
    svg = svg.replace(_INK, "currentColor").replace(TOKEN, f"var(--token, {TOKEN})")
    svg = svg.replace(VLJEPA, f"var(--vljepa, {VLJEPA})").replace(GREY, f"var(--grey, {GREY})")
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, 'DejaVu Sans', sans-serif", svg)
    return svg.replace("<svg", '<svg aria-hidden="true" focusable="false"', 1).strip()


def standalone(svg: str) -> str:
    """The element as a file of its own, which follows a dark page."""
    style = "<style>svg{color:#1b1f24}@media (prefers-color-scheme:dark){svg{color:#e6e8eb}}</style>"
    head, _, body = svg.partition(">")
    return f'{head} xmlns="http://www.w3.org/2000/svg">{style}{body}\n'


def _legend(figure: Figure, axes: Axes, columns: int = 3) -> None:
    """Below the axes, arms first; an entry that several artists share is shown once."""
    found = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    labels = sorted(found, key=lambda label: label not in NAMES.values())
    figure.legend([found[label] for label in labels], labels, loc="outside lower center", ncols=columns)


def _describe_curve(results: Results, metric: str) -> str:
    unit = unit_of(results, metric)
    parts = []
    for arm in ARMS:
        first, last = _points(results, arm, metric)[0], _points(results, arm, metric)[-1]
        parts.append(
            f"{NAMES[arm]} from {show.scalar(first['mean'], unit)} after {show.count(first['samples'])} samples to "
            f"{show.score(last | {'value': last['mean'], 'unit': unit})} after {show.count(last['samples'])}"
        )
    return f"{scores.metric_label(metric)} on validation: {'; '.join(parts)}."


def _points(results: Results, arm: str, metric: str) -> list[dict[str, Any]]:
    return list((results["arms"][arm].get("curves") or {}).get(metric) or ())


def _timings(results: Results, arm: str, mode: str) -> list[tuple[str, float]]:
    """(batch size, median milliseconds), smallest batch first."""
    timed = (results["arms"][arm].get("inference") or {}).get(mode) or {}
    return [(batch, timed[batch]["p50_ms"]) for batch in sorted(timed, key=int)]


def _whiskers(score: scores.Score, unit: str) -> tuple[float, np.ndarray]:
    """Value and lengths (2, 1) below and above; a percentile interval of few items may leave the mean outside."""
    value = _scaled(score["value"], unit)
    low, high = (_scaled(_or(score.get(end), score["value"]), unit) for end in ("low", "high"))
    return value, np.array([[max(value - low, 0)], [max(high - value, 0)]])


def _scaled(value: float, unit: str) -> float:
    return 100 * value if unit in show.SHARES else value


def _axis(unit: str) -> str:
    return "%" if unit in show.SHARES else unit


def _short(value: float) -> str:
    return f"{value / 1000:.3g}k" if value >= 1000 else f"{value:.3g}"


def _near(value: float, ticks: set[float]) -> bool:
    return bool(ticks) and min(ticks) / 1.5 <= value <= max(ticks) * 1.5


def _or(value: float | None, other: float) -> float:
    return other if value is None else value
