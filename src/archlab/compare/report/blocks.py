"""What a report is made of: sections of figures, tables and sentences. The template only lays them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from archlab.compare import formatting as show
from archlab.compare.plots import Panel
from archlab.compare.scores import ARMS, NAMES

DIFFERENCE = "VL-JEPA minus token"
EACH_ARM = [NAMES[arm] for arm in ARMS]


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row names the row.

    Attributes:
        caption: what it holds.
        columns: headings, that of the row names first.
        rows: one text for each column.
        note: how to read it.
        folded: behind its caption until a reader opens it; for what few will read.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        key: its anchor.
        title: as in the table of contents.
        lead: the question it answers and what to know beforehand.
        figures: groups of panels, each with its caption.
        tables: after the figures.
        lines: sentences after the tables.
        missing: what was not measured, and why.
    """

    key: str
    title: str
    lead: str
    figures: Sequence[tuple[str, Sequence[Panel]]] = field(default_factory=list)
    tables: Sequence[Table] = field(default_factory=list)
    lines: Sequence[str] = field(default_factory=list)
    missing: str = ""


def section(
    key: str,
    title: str,
    lead: str,
    figures: Sequence[tuple[str, Sequence[Panel]]] = (),
    tables: Sequence[Table] = (),
    lines: Sequence[str] = (),
    reason: str = "",
) -> Section:
    """A section without empty tables; one without any number is missing for `reason`."""
    filled = [table for table in tables if table.rows]
    return Section(key, title, lead, figures, filled, lines, "" if figures or filled else reason)


def plain(value: Any) -> str:
    """A value of the configuration as it is written there."""
    if isinstance(value, list):
        return ", ".join(map(plain, value)) or "none"
    return "none" if value in (None, "") else f"{value:g}" if isinstance(value, float) else str(value)


def rate(value: Any) -> str:
    """Three significant digits."""
    return show.significant(value) if show.is_number(value) else show.NOT_MEASURED


def per_arm(label: str) -> list[str]:
    """The heading of two columns, one for each arm."""
    return [f"{label}, {NAMES[arm]}" for arm in ARMS]


def capital(text: str) -> str:
    """The first letter in upper case, the rest as it is."""
    return text[:1].upper() + text[1:]
