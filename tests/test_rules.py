from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import pytest

from archlab import rules
from archlab.rules import Rule, each, one_of, rules_of

NOT_FINITE = [math.inf, math.nan]


@pytest.mark.parametrize(
    ("kind", "kept", "broken", "text"),
    [
        (rules.Count, [1, 10**9], [0, -1, *NOT_FINITE], "must be at least 1"),
        (rules.Natural, [0, 1], [-1, *NOT_FINITE], "must be at least 0"),
        (rules.TokenLimit, [3], [2, *NOT_FINITE], "must be at least 3"),
        (rules.Positive, [1e-9, 1e9], [0, -1, *NOT_FINITE], "must be positive and finite"),
        (rules.NonNegative, [0, 0.5], [-1e-9, *NOT_FINITE], "must be at least 0"),
        (rules.Finite, [-1e9, 0, 1e9], [-math.inf, *NOT_FINITE], "must be finite"),
        (rules.Share, [0, 0.5, 1], [-1e-9, 1.1, *NOT_FINITE], "must lie between 0 and 1"),
        (rules.ShareBelowOne, [0, 0.9], [-1e-9, 1, *NOT_FINITE], "must be at least 0 and less than 1"),
        (rules.PositiveShare, [1e-9, 1], [0, 1.1, *NOT_FINITE], "must be more than 0 and at most 1"),
        (rules.InnerShare, [1e-9, 0.9], [0, 1, *NOT_FINITE], "must be more than 0 and less than 1"),
        (rules.GradientClip, [1e-9, math.inf], [0, -1, math.nan], "must be positive; .inf never clips"),
        (rules.Named, ["a"], [""], "must not be empty"),
    ],
)
def test_a_named_rule_ends_where_it_says(kind: Any, kept: list[Any], broken: list[Any], text: str) -> None:
    (rule,) = kind.__metadata__
    assert [value for value in kept if not rule.holds(value)] == []
    assert [value for value in broken if rule.holds(value)] == []
    assert rule.text == text


def test_a_list_keeps_the_rule_of_each_and_repeats_nothing() -> None:
    rule = each(one_of(1, 2, 4), least=1)
    assert rule.holds([1])
    assert rule.holds([4, 2])
    assert not any(map(rule.holds, ([], [1, 1], [3], [1, 3])))
    assert rule.text == "must be one or more different values; each must be one of 1, 2, 4"
    assert each(one_of(1)).holds([])


def test_a_class_has_its_own_rules_and_those_it_inherits() -> None:
    @dataclass
    class Parent:
        heads: rules.Count = 1

    @dataclass
    class Child(Parent):
        name: str = ""
        sizes: Annotated[list[int], "no rule", each(one_of(1))] = ()  # type: ignore[assignment]

    found = rules_of(Child)
    assert list(found) == ["heads", "sizes"]
    assert all(isinstance(rule, Rule) for rule in found.values())
    assert rules_of(Parent).keys() == {"heads"}
