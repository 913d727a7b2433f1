"""Axes whose numbers can be read."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axis import Axis
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter


def plain_log(axis: Axis, steps: Sequence[float] = (1, 2, 5)) -> None:
    """Plain numbers on an axis that is already logarithmic: `steps` between two powers of ten."""
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
