"""The tables of the service's guide: `python -m archlab.serve.reference DOCUMENT [--check]` writes them.

The endpoints, the problems and the settings are read from the code that keeps them.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from archlab.documents import StrPath, code, escape, table, write_block
from archlab.serve.app import create_app
from archlab.serve.problems import KINDS
from archlab.serve.settings import WEIGHTS, Settings


def write_reference(document: StrPath, *, check: bool = False) -> bool:
    """Put the tables between their markers.

    Args:
        document: a Markdown file with the markers of "endpoints", "problems" and "settings".
        check: only compare; write nothing.

    Returns:
        whether all were up to date already.

    Raises:
        UserError: the document cannot be read, or markers are missing.
    """
    blocks = {"endpoints": endpoints(), "problems": problems(), "settings": settings()}
    current = [write_block(document, name, text, check=check) for name, text in blocks.items()]
    return all(current)


def endpoints() -> str:
    """Every endpoint and what it does, in the order of the documentation page."""
    paths = create_app(Settings.model_construct()).openapi()["paths"]
    rows = [
        [f"`{method.upper()} {path}`", escape(operation["description"].partition("\n\n")[0])]
        for path, methods in paths.items()
        for method, operation in methods.items()
    ]
    return table(["endpoint", "what it does"], rows)


def problems() -> str:
    """Every kind of problem."""
    return table(["status", "type", "title"], [[str(kind.status), f"`{kind.uri}`", kind.title] for kind in KINDS])


def settings() -> str:
    """Every setting with its default."""
    rows = [
        [f"`ARCHLAB_{name.upper()}`", _default(field.default), str(field.description)]
        for name, field in Settings.model_fields.items()
    ]
    return table(["variable", "default", "meaning"], rows)


def _default(value: object) -> str:
    if isinstance(value, tuple):
        value = ",".join("weights/" if part == WEIGHTS else str(part) for part in value)
    return f"`{code(value)}`" if value not in (None, "") else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; exit code 1 where a check finds a table out of date."""
    parser = argparse.ArgumentParser(prog="python -m archlab.serve.reference", description=__doc__)
    parser.add_argument("document", type=Path)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a table is out of date")
    options = parser.parse_args(arguments)
    current = write_reference(options.document, check=options.check)
    if options.check and not current:
        print(f"{options.document}: tables are out of date; run this again without --check")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
