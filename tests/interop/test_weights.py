import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from archlab.errors import UserError
from archlab.interop.transforms import Chained, Fused, Reshaped, Same, Transposed
from archlab.interop.weights import Rule, WeightMap

MAP = WeightMap(
    rules=(
        Rule("table", "base.wte"),
        Rule(("{layer}.q", "{layer}.k"), "base.h.{layer}.qk", Chained((Transposed(), Fused((2, 1))))),
        Rule("norm.{part}", "base.norm.{part}"),
    ),
    values={"layer": range(2), "part": ("weight", "bias")},
    prefix="base.",
    tied={"head": "base.wte"},
    zeros=("base.shift",),
    ignored=(r"h\.\d+\.mask",),
)
THEIRS = {
    "base.wte": torch.randn(5, 4),
    "base.h.0.qk": torch.randn(4, 3),
    "base.h.1.qk": torch.randn(4, 3),
    "base.norm.weight": torch.randn(4),
    "base.norm.bias": torch.randn(4),
}
SHAPES = {"table": torch.Size([5, 4])} | {f"norm.{part}": torch.Size([4]) for part in ("weight", "bias")}
SHAPES |= {f"{layer}.{name}": torch.Size([rows, 4]) for layer in range(2) for name, rows in (("q", 2), ("k", 1))}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_there_and_back_is_the_same_bit_for_bit():
    ours = MAP.from_hf(THEIRS, SHAPES)
    assert {name: tensor.shape for name, tensor in ours.items()} == SHAPES
    assert torch.equal(ours["1.k"], THEIRS["base.h.1.qk"].T[2:])
    assert same(MAP.to_hf(ours), THEIRS)


def test_a_prefix_may_be_missing_tables_repeated_and_buffers_present():
    bare = {name.removeprefix("base."): tensor for name, tensor in THEIRS.items()}
    given = bare | {"head": THEIRS["base.wte"].clone(), "h.0.mask": torch.ones(1), "shift": torch.zeros(3)}
    assert same(MAP.from_hf(given, SHAPES), MAP.from_hf(THEIRS, SHAPES))
    unprefixed = dataclasses.replace(MAP, rules=(Rule("table", "wte"),), tied={})
    assert same(unprefixed.from_hf({"base.wte": THEIRS["base.wte"]}, SHAPES), {"table": THEIRS["base.wte"]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base.h.1.qk": None}, "missing: base.h.1.qk"),
        ({"base.extra": torch.ones(1)}, "unexpected: base.extra"),
        ({f"base.extra{i}": torch.ones(1) for i in range(5)}, r"base.extra2 and 2 more"),
        ({"base.wte": torch.ones(4, 5)}, r"wrong shape: base.wte \(4, 5\) for table \(5, 4\)"),
        ({"base.h.0.qk": torch.ones(4, 4)}, r"base.h.0.qk \(4, 4\) for 0.q \(2, 4\), 0.k \(1, 4\)"),
        ({"head": torch.ones(5, 4)}, "head differs from base.wte"),
        ({"base.shift": torch.ones(3)}, "base.shift is not zero"),
        ({"wte": torch.ones(5, 4)}, "wte and base.wte are the same tensor"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change, message):
    given = {name: tensor for name, tensor in (THEIRS | change).items() if tensor is not None}
    with pytest.raises(UserError, match=message) as caught:
        MAP.from_hf(given, SHAPES)
    assert "\n" not in str(caught.value)


def test_ours_must_be_complete_too():
    ours = MAP.from_hf(THEIRS, SHAPES)
    with pytest.raises(UserError, match="missing: table; unexpected: tabel"):
        MAP.to_hf({"tabel" if name == "table" else name: tensor for name, tensor in ours.items()})


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 4))
def test_transforms_only_move_entries_and_invert_each_other(rows, columns):
    whole = torch.arange(sum(rows) * columns).view(sum(rows), columns)
    flat = Reshaped((sum(rows), columns), (1, columns, sum(rows)))
    for transform, theirs in (
        (Same(), whole),
        (Transposed(), whole),
        (Fused(tuple(rows)), whole),
        (Chained((Transposed(), Fused(tuple(rows)))), whole.T),
        (flat, whole.reshape(1, columns, sum(rows))),
    ):
        ours = transform.to_ours((theirs,))
        assert sorted(torch.cat([tensor.flatten() for tensor in ours]).tolist()) == list(range(whole.numel()))
        (back,) = transform.to_theirs(ours)
        assert torch.equal(back, theirs)
