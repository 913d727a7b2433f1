"""What can stand beside a vector: named texts, numbers, truth values, and lists of these.

Every backend gives metadata back as they were put in, and compares them alike: texts by their characters, numbers by
their value (1 equals 1.0), truth values apart from both. Of a list, any item will do. To be equal everywhere, numbers
lie within +-2^53 and fractions are kept to 15 significant digits and 22 decimals: these survive any JSON on the way.
Those of one point are few, as a search gives back the metadata of all that it finds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TypeAlias

from archlab.errors import UserError
from archlab.rules import is_unicode

Scalar: TypeAlias = str | int | float | bool
Value: TypeAlias = Scalar | list[Scalar]
Metadata: TypeAlias = dict[str, Value]

LARGEST_NUMBER = 2**53
LONGEST_NAME = 128
MOST_BYTES = 40_000
"""Of the metadata of one point, as JSON."""


def checked_metadata(raw: Mapping[str, object]) -> Metadata:
    """The metadata of one point, checked.

    Raises:
        UserError: a name or a value is none that every backend can hold, or all of them are too many bytes.
    """
    metadata = {field_name(name): _value(name, value) for name, value in raw.items()}
    size = len(json.dumps(metadata, ensure_ascii=False, separators=(",", ":")).encode())
    if size > MOST_BYTES:
        raise UserError(f"{size} bytes of metadata as JSON: must be at most {MOST_BYTES}; keep the rest elsewhere")
    return metadata


def field_name(name: object) -> str:
    """The name of a field, checked: 1 to 128 characters, no quote and no backslash."""
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME or set(name) & set('"\\') or not is_unicode(name):
        raise UserError(f'metadata field {name!r}: must be 1 to {LONGEST_NAME} characters without " and \\; rename it')
    return name


def scalar(name: str, value: object) -> Scalar:
    """One text, number or truth value of the field `name`, as it is kept."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and is_unicode(value):
        return value
    if isinstance(value, int | float):
        return number(name, value)
    raise UserError(
        f"metadata field {name!r}: holds {_shown(value)}; it must be text, a number, true or false, or a list of these"
    )


def number(name: str, value: object) -> int | float:
    """A number of the field `name`, as it is kept."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST_NUMBER:
        raise UserError(
            f"metadata field {name!r}: {_shown(value)} must be a number within +-2^53; write others as text"
        )
    if isinstance(value, int):
        return value
    return float(f"{round(value, 22):.15g}")


def _value(name: str, value: object) -> Value:
    if isinstance(value, list | tuple):
        return [scalar(name, item) for item in value]
    return scalar(name, value)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}... ({type(value).__name__})"
