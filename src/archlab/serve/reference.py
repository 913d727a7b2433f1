"""The tables of the service's guide: `python -m archlab.serve.reference DOCUMENT [--check]` writes them.

The endpoints, the problems and the settings are read from the code that keeps them.
"""

import argparse
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from pydantic import BaseModel

from archlab.documents import StrPath, code, escape, table, write_block
from archlab.serve import routes
from archlab.serve.app import create_app
from archlab.serve.problems import KINDS
from archlab.serve.settings import Settings
from archlab.serve.streams import messages
from archlab.serve.streams.session import BROKEN_RULE, CODES, FINISHED, LEAVING


def write_reference(document: StrPath, *, check: bool = False) -> bool:
    """Put the tables between their markers.

    Args:
        document: a Markdown file with the markers of "endpoints", "stream", "problems" and "settings".
        check: only compare; write nothing.

    Returns:
        whether all were up to date already.

    Raises:
        UserError: the document cannot be read, or markers are missing.
    """
    blocks = {"endpoints": endpoints(), "stream": stream(), "problems": problems(), "settings": settings()}
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
    watch = inspect.getdoc(routes.stream.stream) or ""  # OpenAPI knows no WebSockets
    rows.append(["`WebSocket /v1/stream`", escape(watch.partition("\n\n")[0])])
    return table(["endpoint", "what it does"], rows)


def stream() -> str:
    """The messages of a stream, what it can be asked, and the codes of its close."""
    said = [("you", one) for one in messages.INWARD] + [("service", one) for one in messages.OUTWARD]
    rows = [[sender, _kind_of(one), _fields_of(one), _first_line(one)] for sender, one in said]
    asked = [
        [f"`{name}`", _default(field.default), str(field.description)]
        for name, field in messages.Configure.model_fields.items()
    ]
    ends = {FINISHED: ["you said `finish`"], LEAVING: ["the service is about to end"], BROKEN_RULE: ["a broken rule"]}
    for problem, end in CODES.items():
        ends.setdefault(end, []).append(f"`{problem.slug}`")
    return "\n\n".join(
        [
            table(["from", "`type`", "fields", "meaning"], rows),
            table(["field of the first message", "default", "meaning"], asked),
            table(["close", "after"], [[str(end), ", ".join(why)] for end, why in sorted(ends.items())]),
        ]
    )


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


def _kind_of(message: type[BaseModel]) -> str:
    kind = message.model_fields.get("type")
    return f"`{get_args(kind.annotation)[0]}`" if kind else "the first"


def _fields_of(message: type[BaseModel]) -> str:
    return ", ".join(f"`{name}`" for name in message.model_fields if name != "type")


def _first_line(message: type[BaseModel]) -> str:
    return escape((inspect.getdoc(message) or "").partition("\n\n")[0])


def _default(value: object) -> str:
    if isinstance(value, tuple):
        value = ",".join(map(str, value))
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
