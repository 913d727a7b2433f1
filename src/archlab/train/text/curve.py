"""The learning curve of a run as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from archlab.train.folder import atomic_write
from archlab.train.loop import History


def plot_curve(history: History, floors: Mapping[str, float], path: Path, title: str) -> None:
    """Draw the loss of training and validation over the steps into a PNG file.

    Args:
        history: its points hold the score `loss`.
        floors: name -> loss of a simpler model, drawn as a line.
    """
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    steps = [point.step for point in history.curve]
    axes.plot(steps, [point.scores["loss"] for point in history.curve], marker=".", label="validation")
    trained = [(point.step, point.loss) for point in history.curve if point.loss is not None]
    if trained:
        axes.plot(*zip(*trained, strict=True), linestyle=":", label="training")
    for number, (name, value) in enumerate(floors.items()):
        axes.axhline(value, color=f"C{number + 2}", linewidth=0.8, linestyle="--", label=name)
    axes.set(title=title, xlabel="step", ylabel="loss (nats)")
    axes.legend(frameon=False, fontsize="small")
    with atomic_write(path) as (partial,):
        figure.savefig(partial, format="png", dpi=120)
