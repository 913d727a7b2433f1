"""Tables in Markdown and in the terminal, and documents with blocks that a command writes between two markers."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich import box, markup
from rich.console import Console
from rich.table import Table

from archlab.errors import UserError
from archlab.train.folder import write_text

StrPath = str | os.PathLike[str]
Tables = Mapping[str, tuple[Sequence[str], Sequence[Sequence[str]]]]
"""Title -> header and rows, as plain text."""


def markers(name: str) -> tuple[str, str]:
    """What stands before and after the block of this name."""
    return f"<!-- {name}:start -->", f"<!-- {name}:end -->"


def write_block(document: StrPath, name: str, text: str, *, check: bool = False) -> bool:
    """Put `text` between the markers of a document.

    Args:
        document: a Markdown file with both markers.
        name: of the block.
        check: only compare; write nothing.

    Returns:
        whether the block was up to date already.

    Raises:
        UserError: the document cannot be read, or the markers are missing or out of order.
    """
    path, (start, end) = Path(document), markers(name)
    try:
        old = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"document {path}: {error.strerror}; name an existing Markdown file") from None
    before, opened, rest = old.partition(start)
    _, closed, after = rest.partition(end)
    if not (opened and closed):
        raise UserError(
            f"document {path}: needs the lines {start} and {end}, in this order; add them where the block goes"
        )
    new = f"{before}{start}\n{text}\n{end}{after}"
    if new != old and not check:
        write_text(path, new)
    return new == old


def write_document(path: Path, text: str, check: bool = False) -> bool:
    """Write a generated document, or with `check` only look; whether it was up to date."""
    current = path.is_file() and path.read_text(encoding="utf-8") == text
    if not (current or check):
        write_text(path, text)
    return current


def block_command(
    module: str, write: Callable[[str, str, bool], bool], what: str, arguments: Sequence[str] | None = None
) -> int:
    """The command `python -m MODULE DOCUMENT RESULTS [--check]`.

    Args:
        module: that is run.
        write: puts the block of a file of results into a document, or with True only looks; whether it was up to date.
        what: the block is, for messages.
        arguments: instead of those of the process.

    Returns:
        the exit code, 1 where a check finds the block out of date.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=f"Write or check {what} of a document.")
    parser.add_argument("document")
    parser.add_argument("results")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the block is out of date")
    options = parser.parse_args(arguments)
    try:
        current = write(options.document, options.results, options.check)
    except UserError as error:
        parser.error(str(error))
    if options.check and not current:
        print(f"{options.document}: {what} do not match {options.results}; run this again without --check")
        return 1
    return 0


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *rows))


def tables_markdown(tables: Tables) -> list[str]:
    """The paragraphs of all tables, each beneath its title as a heading."""
    return [
        part
        for title, (header, rows) in tables.items()
        for part in (
            f"## {escape(title)}",
            table([escape(cell) for cell in header], [[escape(cell) for cell in row] for row in rows]),
        )
    ]


def print_tables(tables: Tables, lines: Sequence[str]) -> None:
    """Show the tables in the terminal, and lines beneath them."""
    console = Console()
    for title, (header, rows) in tables.items():
        shown = Table(*map(markup.escape, header), title=markup.escape(title), box=box.SIMPLE_HEAD, pad_edge=False)
        for row in rows:
            shown.add_row(*map(markup.escape, row))
        console.print(shown)
    for line in lines:
        console.print(line, markup=False, highlight=False)


def escape(text: object) -> str:
    """Any text as Markdown text: no tag, no table cell, no new line."""
    clean = " ".join(str(text).split())
    for sign, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("*", "\\*"), ("`", "\\`")):
        clean = clean.replace(sign, safe)
    return clean.replace("[", "\\[").replace("]", "\\]") if "](" in clean else clean


def code(text: object) -> str:
    """Any text as what stands between two backticks."""
    return " ".join(str(text).replace("`", "'").split())
