"""The capacity of the service and its peers as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from archlab.ticks import plain_log
from archlab.train.folder import atomic_write


def plot(results: Mapping[str, Any], path: Path) -> None:
    """Draw results of `bench serve` into a PNG file: latency over throughput, and the throughput of all servers."""
    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    load, beside = figure.subplots(1, 2)
    steps = [step for step in results["capacity"]["steps"] if step["requests"]]
    rates = [step["throughput_per_s"] for step in steps]
    for name, marker in (("p50_ms", "o"), ("p95_ms", "s"), ("p99_ms", "^")):
        (line,) = load.plot(rates, [step[name] for step in steps], marker=marker, label=name.removesuffix("_ms"))
        single = [one for step in steps for one in step["rounds"] if name in one]
        load.plot(
            [one["throughput_per_s"] for one in single],
            [one[name] for one in single],
            marker,
            color=line.get_color(),
            markersize=3,
            alpha=0.4,
        )
    for step, rate in zip(steps, rates, strict=True):
        load.annotate(str(step["users"]), (rate, step["p95_ms"]), textcoords="offset points", xytext=(4, 4), fontsize=8)
    load.axhline(results["plan"]["goal_ms"], color="grey", linestyle=":", label="limit of the p95")
    load.set(title="Text search, by users", xlabel="requests/s", ylabel="ms", yscale="log")
    plain_log(load.yaxis, (1, 2, 3, 5))
    load.legend(frameon=False)
    names = list(results["side_by_side"])
    for place, name in enumerate(names):
        rounds = [step["throughput_per_s"] for step in results["side_by_side"][name]["rounds"]]
        beside.barh(place, results["side_by_side"][name]["throughput_per_s"], color=f"C{place}", alpha=0.7)
        beside.plot(rounds, [place] * len(rounds), "k|")
    beside.set_yticks(range(len(names)), names)
    beside.invert_yaxis()
    beside.set(title="Side by side: median and rounds", xlabel="requests/s")
    with atomic_write(path) as (partial,):
        figure.savefig(partial, format="png", dpi=120)
