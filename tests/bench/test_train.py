from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from archlab.bench import train
from archlab.bench.peer import Contender, Shape, contenders
from archlab.config import RunConfig, TransformerConfig

TINY = Shape(2, 7, 40, TransformerConfig(width=16, depth=2, heads=2, feed_forward=24))


@pytest.fixture
def both() -> dict[str, Contender]:
    return contenders(TINY)


def test_both_compute_the_same_loss_and_the_same_gradients(both: dict[str, Contender]) -> None:
    losses = train.check_equal_work(both)
    # Untrained logits are normal with variance 1: the expected cross-entropy is ln V + 1/2.
    assert losses["archlab"] == pytest.approx(np.log(TINY.vocabulary) + 0.5, abs=0.3)
    norms = {}
    for name, contender in both.items():
        contender.loss().backward()
        gradients = [p.grad for p in contender.model.parameters() if p.requires_grad]
        norms[name] = sorted(float(gradient.norm()) for gradient in gradients if gradient is not None)
        assert len(norms[name]) == len(gradients)
    np.testing.assert_allclose(norms["archlab"], norms["transformers"], rtol=1e-4)


def test_both_stay_equal_while_they_train(both: dict[str, Contender]) -> None:
    """Same optimiser, same settings: after a few updates the losses are still the same, and lower."""
    before = train.check_equal_work(both)
    for contender in both.values():
        step = train.training_step(contender, "float32")
        for _ in range(5):
            step()
    after = train.check_equal_work(both)
    assert after["archlab"] < before["archlab"] - 0.01


def test_a_peer_with_other_weights_is_refused(both: dict[str, Contender]) -> None:
    with torch.no_grad():
        both["transformers"].model.model.layers[0].mlp.up_proj.weight.mul_(3)  # type: ignore[union-attr, index]
        both["transformers"].model.model.norm.weight.mul_(1.5)  # type: ignore[union-attr]
    with pytest.raises(RuntimeError, match="do not do equal work: losses"):
        train.check_equal_work(both)


def test_a_peer_that_trains_fewer_parameters_is_refused(both: dict[str, Contender]) -> None:
    both["transformers"].model.model.norm.requires_grad_(False)  # type: ignore[union-attr]
    with pytest.raises(RuntimeError, match=r"do not do equal work: .* trained parameters"):
        train.check_equal_work(both)


def test_a_peer_with_fewer_operations_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = itertools.count(1)
    monkeypatch.setattr(train, "counted_flops", lambda step: next(costs))
    with pytest.raises(RuntimeError, match="operations per step"):
        train.compare(TINY, 1.0, rounds=1, warmup=0)


def test_ratios_are_taken_within_rounds() -> None:
    """The machine slows down tenfold halfway; within each round ours takes half the time."""
    theirs = np.concatenate([np.linspace(1, 2, 10), np.linspace(10, 20, 10)])
    assert train.median_ratio(0.5 * theirs, theirs) == pytest.approx((0.5, 0.5, 0.5))


def test_the_interval_of_the_ratio_holds_its_median_and_narrows_with_more_rounds() -> None:
    rng = np.random.default_rng(0)
    noise = rng.lognormal(sigma=0.3, size=400)
    few, many = (train.median_ratio(noise[:count], np.ones(count)) for count in (20, 400))
    for value, low, high in (few, many):
        assert low < value < high
    assert many[2] - many[1] < 0.5 * (few[2] - few[1])


def _seconds() -> Any:
    """A clock that moves on by a second at every look."""
    return itertools.count().__next__


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_benchmark_prints_a_table_and_writes_what_it_measured(
    precision: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train.machine, "matmul_peak", lambda precision, clock: 2.0)
    out = tmp_path / "folder" / "bench.json"
    results = train.bench_train({"tiny": TINY}, rounds=4, warmup=1, precision=precision, out=out, clock=_seconds())
    assert json.loads(out.read_text(encoding="utf-8")) == results
    assert [path.name for path in out.parent.iterdir()] == ["bench.json"]

    measured = results["shapes"]["tiny"]["contenders"]
    assert set(measured) == {"archlab", "transformers"}
    for values in measured.values():
        assert values["milliseconds"] == 1000
        assert values["tokens_per_second"] == TINY.samples * TINY.tokens
        assert values["gflops"] == pytest.approx(values["flops_per_step"] / 1e9)
        assert values["share_of_peak"] == pytest.approx(values["gflops"] / 2)
    assert results["shapes"]["tiny"]["ratio"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    printed = capsys.readouterr().out
    assert "2x7 16x2" in printed
    assert "transformers" in printed
    assert "1.000-1.000" in printed


def test_one_shape_is_the_trunk_of_the_comparison() -> None:
    assert train.SHAPES["trunk"].stack == RunConfig().trunk
