from __future__ import annotations

import itertools
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from archlab.bench import attention
from archlab.bench.attention import MASKED, OURS, PEER, READABLE, Contender, Shape
from archlab.layers.attention import Attention

CPU = torch.device("cpu")
TINY = Shape(samples=2, tokens=9, width=16, heads=2)
BOTH = pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])


def check(found: dict[str, Contender]) -> None:
    attention.check_equal_work(found, *attention.inputs(TINY, CPU))


@BOTH
def test_all_contenders_compute_the_same(causal: bool) -> None:
    found = attention.contenders(TINY, causal, CPU)
    assert set(found) == {OURS, READABLE, PEER} | ({MASKED} if causal else set())
    check(found)


@BOTH
@pytest.mark.parametrize("name", [OURS, READABLE])
def test_a_contender_that_sees_other_tokens_is_refused(name: str, causal: bool) -> None:
    found, other = (attention.contenders(TINY, which, CPU) for which in (causal, not causal))
    with pytest.raises(RuntimeError, match=f"do not do equal work: {name} differs"):
        check(found | {name: other[name]})


def test_a_contender_with_equal_outputs_and_other_gradients_is_refused() -> None:
    found = attention.contenders(TINY, True, CPU)
    detached = Contender(lambda x: found[PEER].forward(x).detach() + 0 * found[PEER].forward(x), found[PEER].parameters)
    with pytest.raises(RuntimeError, match=r"do not do equal work: archlab differs from torch by 1\.0e\+00"):
        check(found | {OURS: detached})


def test_a_contender_that_gives_no_numbers_is_refused() -> None:
    found = attention.contenders(TINY, False, CPU)
    with pytest.raises(RuntimeError, match="do not do equal work: archlab differs from torch by nan"):
        check(found | {OURS: Contender(lambda x: found[PEER].forward(x) * torch.nan, found[PEER].parameters)})


def test_ours_is_timed_in_the_implementation_that_it_is_named_after(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []
    forward = Attention.forward

    def spy(self: Attention, *arguments: Any, **options: Any) -> Any:
        used.append(self.implementation)
        return forward(self, *arguments, **options)

    monkeypatch.setattr(Attention, "forward", spy)
    found = attention.contenders(TINY, True, CPU)
    calls = attention.prepare(found, "forward", *attention.inputs(TINY, CPU), "float32")
    for name in (OURS, PEER, READABLE, MASKED):
        calls[name]()
    assert used == ["fused", "readable"]


@pytest.mark.parametrize(("which", "passes"), [("forward", 0), ("forward and backward", 1)])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_call_is_the_pass_in_the_precision_that_it_is_named_after(which: Any, passes: int, precision: Any) -> None:
    seen: list[torch.dtype] = []
    weight = torch.nn.Parameter(torch.ones(()))

    def forward(x: torch.Tensor) -> torch.Tensor:
        out = x * weight
        seen.append(out.dtype)
        if out.requires_grad:
            out.register_hook(lambda gradient: seen.append(gradient.dtype))
        return out

    calls = attention.prepare({OURS: Contender(forward, (weight,))}, which, *attention.inputs(TINY, CPU), precision)
    calls[OURS]()
    assert seen == [getattr(torch, precision)] * (1 + passes)


def test_every_shape_reads_equally_many_tokens() -> None:
    assert {shape.samples * shape.tokens for shape in attention.SHAPES} == {2048}
    assert [shape.tokens for shape in attention.SHAPES] == [64, 128, 256, 512, 1024, 2048]


def test_the_readable_way_holds_the_scores_of_every_pair_and_the_fused_way_does_not() -> None:
    """Twice as long, half as many: four times the pairs of a sequence, twice the pairs of all."""
    peaks: dict[str, list[int]] = {OURS: [], READABLE: []}
    for shape in (Shape(4, 64, 16, 4), Shape(2, 128, 16, 4)):
        calls = attention.prepare(
            attention.contenders(shape, False, CPU), "forward", *attention.inputs(shape, CPU), "float32"
        )
        for name, found in peaks.items():
            found.append(attention.peak_allocation(calls[name], CPU))
    scores = 4 * 4 * 4 * 64**2  # bytes x samples x heads x pairs, of the shorter sequences
    assert peaks[READABLE][0] >= 2 * scores
    assert peaks[READABLE][1] - peaks[READABLE][0] >= 2 * scores
    assert peaks[OURS][1] < 1.1 * peaks[OURS][0] < peaks[READABLE][0]


def _seconds() -> Any:
    """A clock that moves on by a second at every look."""
    return itertools.count().__next__


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_benchmark_prints_tables_and_writes_what_it_measured_with_a_plot(
    precision: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(attention.torch.cuda, "is_available", lambda: False)
    out = tmp_path / "folder" / "bench.json"
    shapes = (TINY, Shape(1, 18, 16, 2))
    results = attention.bench_attention(shapes, rounds=4, warmup=1, precision=precision, out=out, clock=_seconds())
    assert json.loads(out.read_text(encoding="utf-8")) == results
    assert sorted(path.name for path in out.parent.iterdir()) == ["bench.json", "bench.png"]
    assert (tmp_path / "folder" / "bench.png").read_bytes().startswith(b"\x89PNG")

    assert len({(section["causal"], section["pass"]) for section in results["sections"]}) == 4
    for section in results["sections"]:
        assert [row["tokens"] for row in section["shapes"]] == [9, 18]
        for row in section["shapes"]:
            assert (MASKED in row["contenders"]) == section["causal"]
            for measured in row["contenders"].values():
                assert measured["milliseconds"] == 1000
                assert measured["ratio"] == {"value": 1.0, "low": 1.0, "high": 1.0}
                assert measured["peak_bytes"] > 0
    printed = capsys.readouterr().out
    assert "bidirectional, forward and backward" in printed
    assert "1.000 (1.000-1.000)" in printed


def test_a_ratio_is_the_contenders_time_over_that_of_the_peer() -> None:
    now = [0.0]

    def spend(seconds: float) -> None:
        now[0] += seconds

    calls = {PEER: partial(spend, 2.0), OURS: partial(spend, 3.0)}
    found = attention.compare(calls, CPU, rounds=3, warmup=0, clock=lambda: now[0])
    assert (found[OURS]["ratio"]["value"], found[PEER]["ratio"]["value"]) == (1.5, 1.0)
    assert found[OURS]["milliseconds"] == 3000
