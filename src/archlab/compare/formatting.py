"""Numbers as text: one rule per unit, digits that the interval can carry, and "not measured" for what is not there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

NOT_MEASURED = "not measured"
SHARES = frozenset({"accuracy", "recall", "F1", "share"})
"""Units between 0 and 1, shown in percent."""

_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def is_number(value: object) -> bool:
    """Whether `value` is a finite number; a flag is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def scalar(value: Any, unit: str) -> str:
    """A value of a metric: "71.2 %" for shares, two decimals for the rest."""
    if not is_number(value):
        return NOT_MEASURED
    return _minus(f"{100 * value:.1f} %" if unit in SHARES else f"{value:.2f}")


def threshold(value: float, unit: str) -> str:
    """A score to be reached, as round as it was chosen: "56.0 %" for shares, two significant digits for the rest."""
    return scalar(value, unit) if unit in SHARES else f"{value:.2g}"


def score(score: Mapping[str, Any] | None) -> str:
    """A score with its interval: "71.2 % [68.0, 74.1]"."""
    if score is None:
        return NOT_MEASURED
    unit = str(score.get("unit", ""))
    return scalar(score.get("value"), unit) + _interval(score, unit, ".1f", ".2f")


def difference(paired: Mapping[str, Any] | None, unit: str) -> str:
    """A paired difference with its interval: "+7.2 points [+4.0, +10.1]"; points are percentage points."""
    if paired is None or not is_number(paired.get("difference")):
        return NOT_MEASURED
    value = paired["difference"]
    text = f"{100 * value:+.1f} points" if unit in SHARES else f"{value:+.2f}"
    return _minus(text + _interval(paired, unit, "+.1f", "+.2f"))


def count(value: Any) -> str:
    """A whole number with separators: "12,800"."""
    return f"{round(value):,}" if is_number(value) else NOT_MEASURED


def quantity(value: Any, unit: str = "") -> str:
    """Three significant digits with a prefix: "1.24 M", "3.50 PFLOP"."""
    if not is_number(value):
        return NOT_MEASURED
    for size, prefix in _PREFIXES:
        if abs(value) >= size:
            return f"{significant(value / size)} {prefix}{unit}"
    return f"{significant(value)} {unit}".rstrip()


def seconds(value: Any) -> str:
    """A duration in the unit that fits: "7.91 ms", "42.0 s", "12.5 min", "3.10 h"."""
    if not is_number(value):
        return NOT_MEASURED
    for size, unit in ((3600, "h"), (60, "min"), (1, "s")):
        if value >= size * (1 if unit == "s" else 2):
            return f"{significant(value / size)} {unit}"
    return f"{significant(1000 * value)} ms"


def milliseconds(value: Any) -> str:
    """A latency given in milliseconds."""
    return seconds(value / 1000) if is_number(value) else NOT_MEASURED


def mebibytes(value: Any) -> str:
    """Memory given in MiB: "812 MiB", "1.50 GiB"."""
    if not is_number(value):
        return NOT_MEASURED
    return f"{significant(value / 1024)} GiB" if value >= 1024 else f"{significant(value)} MiB"


def times(numerator: Any, denominator: Any) -> str:
    """A ratio of two measurements: "2.31 times"."""
    if not (is_number(numerator) and is_number(denominator)) or denominator == 0:
        return NOT_MEASURED
    return f"{significant(numerator / denominator)} times"


def significant(value: float) -> str:
    """Three significant digits without an exponent: "0.0123", "7.90", "1,240"."""
    if value == 0:
        return "0"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def commit(name: Any) -> str:
    """A commit short enough to read, its mark of changed files kept."""
    text = str(name or "unknown")
    return text if len(text) < 20 else text[:10] + ("-dirty" if text.endswith("-dirty") else "")


def _minus(text: str) -> str:
    """A minus sign as wide as the plus."""
    return text.replace("-", "\N{MINUS SIGN}")


def _interval(mapping: Mapping[str, Any], unit: str, share: str, other: str) -> str:
    low, high = mapping.get("low"), mapping.get("high")
    if not (is_number(low) and is_number(high)):
        return ""
    if unit in SHARES:
        return f" [{100 * low:{share}}, {100 * high:{share}}]"  # type: ignore[operator]
    return f" [{low:{other}}, {high:{other}}]"
