"""Rules that the values of a configuration keep, written into the type of the field that they are about.

    steps: Count = 400
    seeds: Annotated[list[int], each(at_least(0), least=1)] = field(default_factory=lambda: [0])

So an option's rule stands where the option is declared, and `config.Section` checks it. NaN breaks every rule about
numbers.
"""

from __future__ import annotations

import functools
import math
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any


def is_unicode(text: str) -> bool:
    """Whether a text can be encoded: half a surrogate pair cannot, nor bytes of the command line that are no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True)
class Rule:
    """What values a field may have.

    Attributes:
        holds: whether a value keeps the rule.
        text: the rule in words that follow "name=value: ".
    """

    holds: Callable[[Any], bool]
    text: str


def at_least(least: float) -> Rule:
    """A finite number from `least` on."""
    return Rule(lambda value: least <= value < math.inf, f"must be at least {least}")


def between(least: float, most: float) -> Rule:
    """A number from `least` to `most`, both included."""
    return Rule(lambda value: least <= value <= most, f"must lie between {least} and {most}")


def one_of(*values: int) -> Rule:
    """One of these values."""
    return Rule(lambda value: value in values, f"must be one of {', '.join(map(str, values))}")


def each(rule: Rule, *, least: int = 0) -> Rule:
    """A list of at least `least` different values that all keep the rule."""

    def holds(values: list[Any]) -> bool:
        return len(values) >= least and len(set(values)) == len(values) and all(rule.holds(value) for value in values)

    return Rule(holds, f"must be {'one or more ' if least else ''}different values; each {rule.text}")


POSITIVE = Rule(lambda value: 0 < value < math.inf, "must be positive and finite")
NAMED = Rule(bool, "must not be empty")

Count = Annotated[int, at_least(1)]
Natural = Annotated[int, at_least(0)]
TokenLimit = Annotated[int, at_least(3)]
"""Room for [BOS], one token and [EOS]."""
Positive = Annotated[float, POSITIVE]
NonNegative = Annotated[float, at_least(0)]
Finite = Annotated[float, Rule(lambda value: -math.inf < value < math.inf, "must be finite")]
Share = Annotated[float, between(0, 1)]
ShareBelowOne = Annotated[float, Rule(lambda value: 0 <= value < 1, "must be at least 0 and less than 1")]
PositiveShare = Annotated[float, Rule(lambda value: 0 < value <= 1, "must be more than 0 and at most 1")]
InnerShare = Annotated[float, Rule(lambda value: 0 < value < 1, "must be more than 0 and less than 1")]
GradientClip = Annotated[float, Rule(lambda value: value > 0, "must be positive; .inf never clips")]
Named = Annotated[str, NAMED]


@functools.cache
def rules_of(section: type) -> dict[str, Rule]:
    """Field -> its rule, for the fields of a class that have one, in their order."""
    return {
        name: rule
        for name, hint in typing.get_type_hints(section, include_extras=True).items()
        for rule in getattr(hint, "__metadata__", ())
        if isinstance(rule, Rule)
    }
