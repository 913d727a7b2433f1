from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from tests.index.strategies import conditions

from archlab.errors import UserError
from archlab.index.filters import (
    And,
    Equals,
    Exists,
    Filter,
    In,
    Not,
    Or,
    Range,
    from_json,
    matches,
    parse,
    parse_all,
    to_json,
)
from archlab.index.metadata import Metadata


@given(conditions([]))
def test_a_filter_survives_its_json(condition: Filter) -> None:
    assert from_json(to_json(condition)) == condition


def test_the_example_of_the_documentation_is_read() -> None:
    raw = {"and": [{"field": "colour", "in": ["red", "blue"]}, {"not": {"field": "year", "gte": 1990, "lt": 2000}}]}
    assert from_json(raw) == And((In("colour", ("red", "blue")), Not(Range("year", gte=1990, lt=2000))))
    assert from_json({"or": [{"field": "a", "exists": False}]}) == Or((Not(Exists("a")),))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (None, "None is no condition; write one like"),
        ([], "is no condition"),
        ({}, "is no condition"),
        ({"and": []}, "'and' is empty"),
        ({"or": {}}, "'or' holds {}; it must be a list"),
        ({"and": [{"field": "a"}]}, "filter on 'a': has nothing; it takes one of equals, in and exists"),
        ({"field": "a", "like": "b"}, "has 'like'; it takes one of equals"),
        ({"field": "a", "equals": 1, "in": [2]}, "has 'equals', 'in'; it takes one of"),
        ({"equals": 1}, "has no 'field'"),
        ({"field": 3, "equals": 1}, "has no 'field'"),
        ({"field": "a", "in": []}, "'in' needs at least one value"),
        ({"field": "a", "in": "red"}, "'in' must be a list of at most 256 values"),
        ({"field": "a", "in": list(range(257))}, "'in' must be a list of at most 256 values"),
        ({"field": "a", "exists": "yes"}, "'exists' must be true or false"),
        ({"field": "a", "equals": None}, "'a': holds None; it must be text"),
        ({"field": "a", "gt": "3"}, r"'3' must be a number within"),
        ({"field": "a", "gt": True}, r"True must be a number within"),
        ({"field": 'a"', "equals": 1}, "must be 1 to 128 characters"),
        ({"and": [{"field": "a", "exists": True}] * 256}, "more than 256 conditions or 16 levels"),
        ({"not": "x"}, "'x' is no condition"),
    ],
)
def test_what_is_no_filter_is_refused_by_name(raw: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_json(raw)


def test_a_filter_that_nests_without_end_is_refused_before_it_is_followed() -> None:
    raw: dict[str, Any] = {"field": "a", "exists": True}
    for _ in range(5000):
        raw = {"not": raw}
    with pytest.raises(UserError, match="16 levels"):
        from_json(raw)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("colour=red", Equals("colour", "red")),
        ("colour = red ", Equals("colour", "red")),
        ("colour!=red", Not(Equals("colour", "red"))),
        ("colour=red,blue", In("colour", ("red", "blue"))),
        ("colour!=red,blue", Not(In("colour", ("red", "blue")))),
        ('name="a,b",c', In("name", ("a,b", "c"))),
        ('year="1990"', Equals("year", "1990")),
        ("year=1990", Equals("year", 1990)),
        ("x=1e3", Equals("x", 1000.0)),
        ("tame=true", Equals("tame", True)),
        ("empty=", Equals("empty", "")),
        ("x=null", Equals("x", "null")),
        ("x=NaN", Equals("x", "NaN")),
        ("url=http://a/b?c=d", Equals("url", "http://a/b?c=d")),
        ("year>1990", Range("year", gt=1990)),
        ("year>=1990.5", Range("year", gte=1990.5)),
        ("year<-3", Range("year", lt=-3)),
        ("year<=0", Range("year", lte=0)),
        ("a b.c", Exists("a b.c")),
        ("!colour", Not(Exists("colour"))),
    ],
)
def test_conditions_are_read_as_they_are_written_in_a_shell(text: str, expected: Filter) -> None:
    assert parse(text) == expected
    assert type(getattr(parse(text), "value", None)) is type(getattr(expected, "value", None))


@pytest.mark.parametrize("text", ["", "=red", "!a=b", "a=>3", "year>old", "year<true", ">3"])
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="condition"):
        parse(text)


def test_several_conditions_must_all_hold() -> None:
    assert parse_all([]) is None
    assert parse_all(["a=1"]) == Equals("a", 1)
    assert parse_all(["a=1", "b"]) == And((Equals("a", 1), Exists("b")))


def test_numbers_are_compared_as_they_are_kept() -> None:
    """A fraction of 17 digits is kept with 15, in the metadata and in the filter."""
    assert Equals("x", 0.1 + 0.2).value == 0.3
    metadata: Metadata = {"x": 0.3}
    assert matches(Equals("x", 0.1 + 0.2), metadata)
    assert not matches(Range("x", gt=0.1 + 0.2), metadata)
