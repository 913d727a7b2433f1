"""Conditions on metadata: a small typed language that every backend honours alike.

    {"and": [{"field": "colour", "in": ["red", "blue"]}, {"not": {"field": "year", "gte": 1990, "lt": 2000}}]}

`from_json` reads this form, `parse` the one of the shell (`year>=1990`), and `matches` says what each condition means.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from archlab.errors import UserError
from archlab.index.metadata import Metadata, Scalar, field_name, number, scalar

MOST_CONDITIONS = 256
DEEPEST = 16

_EXAMPLE = '{"field": "colour", "equals": "red"}'


@dataclass(frozen=True)
class Equals:
    """The field has this value, or holds a list with it."""

    field: str
    value: Scalar

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", scalar(field_name(self.field), self.value))


@dataclass(frozen=True)
class In:
    """The field equals one of these values."""

    field: str
    values: tuple[Scalar, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise UserError(f"filter on {self.field!r}: 'in' needs at least one value")
        object.__setattr__(self, "values", tuple(scalar(field_name(self.field), value) for value in self.values))


@dataclass(frozen=True)
class Range:
    """The field has a number within these bounds; texts and truth values lie within none."""

    field: str
    gt: float | None = None
    gte: float | None = None
    lt: float | None = None
    lte: float | None = None

    def __post_init__(self) -> None:
        field_name(self.field)
        if not self.bounds:
            raise UserError(f"filter on {self.field!r}: needs at least one bound of gt, gte, lt and lte")
        for name, bound in self.bounds.items():
            object.__setattr__(self, name, number(self.field, bound))

    @property
    def bounds(self) -> dict[str, float]:
        """The bounds that are given, by name."""
        bounds = {"gt": self.gt, "gte": self.gte, "lt": self.lt, "lte": self.lte}
        return {name: bound for name, bound in bounds.items() if bound is not None}


@dataclass(frozen=True)
class Exists:
    """The field is there and is no empty list."""

    field: str

    def __post_init__(self) -> None:
        field_name(self.field)


@dataclass(frozen=True)
class And:
    """All of these hold."""

    parts: tuple[Filter, ...]

    def __post_init__(self) -> None:
        _need_parts("and", self.parts)


@dataclass(frozen=True)
class Or:
    """At least one of these holds."""

    parts: tuple[Filter, ...]

    def __post_init__(self) -> None:
        _need_parts("or", self.parts)


@dataclass(frozen=True)
class Not:
    """This does not hold."""

    part: Filter


Filter: TypeAlias = And | Or | Not | Equals | In | Range | Exists


def matches(condition: Filter, metadata: Metadata) -> bool:
    """Whether metadata meet a condition. This is the meaning; the backends must agree with it."""
    match condition:
        case And(parts):
            return all(matches(part, metadata) for part in parts)
        case Or(parts):
            return any(matches(part, metadata) for part in parts)
        case Not(part):
            return not matches(part, metadata)
    found = metadata.get(condition.field, [])
    values = found if isinstance(found, list) else [found]
    match condition:
        case Equals(_, wanted):
            return any(_equal(value, wanted) for value in values)
        case In(_, several):
            return any(_equal(value, wanted) for value in values for wanted in several)
        case Range():
            return any(_within(value, condition) for value in values)
        case Exists():
            return bool(values)


def from_json(raw: object) -> Filter:
    """Read a filter from plain JSON values.

    Raises:
        UserError: it is none; the message names the part and shows one that is right.
    """
    count = 0

    def read(part: object, depth: int) -> Filter:
        nonlocal count
        count += 1
        if count > MOST_CONDITIONS or depth > DEEPEST:
            raise UserError(f"filter: has more than {MOST_CONDITIONS} conditions or {DEEPEST} levels; simplify it")
        if not isinstance(part, Mapping) or not part:
            raise UserError(f"filter: {_short(part)} is no condition; write one like {_EXAMPLE}")
        keys = set(part)
        if keys in ({"and"}, {"or"}):
            ((name, inner),) = part.items()
            if not isinstance(inner, list):
                raise UserError(f"filter: {name!r} holds {_short(inner)}; it must be a list of conditions")
            parts = tuple(read(one, depth + 1) for one in inner)
            return And(parts) if name == "and" else Or(parts)
        if keys == {"not"}:
            return Not(read(part["not"], depth + 1))
        return _leaf(part)

    return read(raw, 1)


def to_json(condition: Filter) -> dict[str, Any]:
    """The form that `from_json` reads."""
    match condition:
        case And(parts):
            return {"and": [to_json(part) for part in parts]}
        case Or(parts):
            return {"or": [to_json(part) for part in parts]}
        case Not(part):
            return {"not": to_json(part)}
        case Equals(field, value):
            return {"field": field, "equals": value}
        case In(field, values):
            return {"field": field, "in": list(values)}
        case Range(field):
            return {"field": field, **condition.bounds}
        case Exists(field):
            return {"field": field, "exists": True}


def parse(text: str) -> Filter:
    """Read one condition as it is written in a shell.

    `colour=red`, `colour!=red`, `colour=red,blue`, `year>=1990`, `year<2000`; `colour` alone asks whether it is there,
    `!colour` whether it is not. Numbers, true and false are read as such; quotes make anything a text: `year="1990"`.

    Raises:
        UserError: it is none of these.
    """
    found = re.fullmatch(r"\s*(!?)([^=<>!]+?)\s*(?:(!=|>=|<=|=|>|<)(.*))?", text, re.DOTALL)
    if found is None or (found[1] and found[3]):
        raise UserError(f"condition {text!r}: must be like colour=red, colour!=red, year>=1990 or colour")
    negated, field, sign, rest = found.groups()
    if sign is None:
        return Not(Exists(field)) if negated else Exists(field)
    if sign in _BOUNDS:
        return Range(field, **{_BOUNDS[sign]: _bound(text, rest)})
    if rest.lstrip()[:1] in ("=", "<", ">"):
        raise UserError(f"condition {text!r}: has two signs; write >= and <=, and put a text that begins so in quotes")
    values = tuple(_plain(part) for part in re.findall(r'"[^"]*"|[^,]+', rest) or [""])
    equal = Equals(field, values[0]) if len(values) == 1 else In(field, values)
    return Not(equal) if sign == "!=" else equal


def parse_all(texts: Sequence[str]) -> Filter | None:
    """All of these conditions at once, None if there are none."""
    parts = tuple(parse(text) for text in texts)
    return And(parts) if len(parts) > 1 else next(iter(parts), None)


_BOUNDS = {">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}


def _leaf(part: Mapping[str, Any]) -> Filter:
    field = part.get("field")
    if not isinstance(field, str):
        raise UserError(f"filter: {_short(part)} has no 'field', and is no 'and', 'or' or 'not'; like {_EXAMPLE}")
    rest = {name: value for name, value in part.items() if name != "field"}
    readers: dict[str, Callable[[Any], Filter]] = {
        "equals": lambda value: Equals(field, value),
        "in": lambda values: In(field, tuple(_list(field, values))),
        "exists": lambda value: _exists(field, value),
    }
    if len(rest) == 1 and (name := next(iter(rest))) in readers:
        return readers[name](rest[name])
    if rest and rest.keys() <= set(_BOUNDS.values()):
        return Range(field, **rest)
    raise UserError(
        f"filter on {field!r}: has {', '.join(map(repr, rest)) or 'nothing'}; it takes one of equals, in and exists, "
        f"or bounds gt, gte, lt, lte"
    )


def _exists(field: str, value: object) -> Filter:
    if not isinstance(value, bool):
        raise UserError(f"filter on {field!r}: 'exists' must be true or false")
    return Exists(field) if value else Not(Exists(field))


def _list(field: str, values: object) -> list[Any]:
    if not isinstance(values, list) or len(values) > MOST_CONDITIONS:
        raise UserError(f"filter on {field!r}: 'in' must be a list of at most {MOST_CONDITIONS} values")
    return values


def _need_parts(name: str, parts: tuple[Filter, ...]) -> None:
    if not parts:
        raise UserError(f"filter: {name!r} is empty; give at least one condition, or no filter")


def _equal(value: Scalar, wanted: Scalar) -> bool:
    return value == wanted and isinstance(value, bool) == isinstance(wanted, bool)


def _within(value: Scalar, bounds: Range) -> bool:
    if isinstance(value, bool | str):
        return False
    return (
        (bounds.gt is None or value > bounds.gt)
        and (bounds.gte is None or value >= bounds.gte)
        and (bounds.lt is None or value < bounds.lt)
        and (bounds.lte is None or value <= bounds.lte)
    )


def _bound(text: str, rest: str) -> float:
    value = _plain(rest)
    if isinstance(value, str | bool):
        raise UserError(f"condition {text!r}: {rest!r} must be a number")
    return value


def _plain(text: str) -> Scalar:
    """A JSON number, truth value or quoted text; anything else is a text as it stands."""
    text = text.strip()
    try:
        value = json.loads(text, parse_constant=str)
    except ValueError:
        return text
    return value if isinstance(value, str | int | float) else text


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
