"""Metadata and filters for hypothesis, with the names and values that are easily got wrong."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from archlab.index.filters import And, Equals, Exists, Filter, In, Not, Or, Range
from archlab.index.metadata import LARGEST_NUMBER, Metadata

FIELDS = ["a", "b.c", "ü ñ", "0", "[1]", "*"]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=4) | st.sampled_from(["red", "Red", "true", "1"])
NUMBERS = st.integers(-3, 3) | st.integers(-LARGEST_NUMBER, LARGEST_NUMBER) | st.floats(-1e15, 1e15) | st.floats(-1, 1)
SCALARS = TEXTS | NUMBERS | st.booleans()
METADATA = st.dictionaries(st.sampled_from(FIELDS), SCALARS | st.lists(SCALARS, max_size=3), max_size=4)


def conditions(metadata: list[Metadata]) -> st.SearchStrategy[Filter]:
    """Filters; half of their values occur in the metadata."""
    there = [(name, one) for row in metadata for name, value in row.items() for one in items(value)]
    fields = st.sampled_from(FIELDS)
    pairs = st.tuples(fields, SCALARS) | (st.sampled_from(there) if there else st.tuples(fields, SCALARS))
    bound = NUMBERS | st.sampled_from([value for _, value in there if _is_number(value)] or [0])
    leaves: st.SearchStrategy[Filter] = (
        pairs.map(lambda pair: Equals(*pair))
        | st.lists(pairs, min_size=1, max_size=3).map(lambda found: In(found[0][0], tuple(one for _, one in found)))
        | st.builds(Range, fields, gt=bound, lte=st.none() | bound)
        | st.builds(Range, fields, gte=bound, lt=st.none() | bound)
        | fields.map(Exists)
    )
    return st.recursive(
        leaves,
        lambda inner: (
            inner.map(Not)
            | st.lists(inner, min_size=1, max_size=3).map(lambda parts: And(tuple(parts)))
            | st.lists(inner, min_size=1, max_size=3).map(lambda parts: Or(tuple(parts)))
        ),
        max_leaves=5,
    )


def items(value: Any) -> list[Any]:
    """The values of a field."""
    return value if isinstance(value, list) else [value]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
