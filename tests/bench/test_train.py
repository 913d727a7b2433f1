from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from archlab.bench import gpt2_peer, train
from archlab.bench.peer import Contender, Shape
from archlab.config import RunConfig, TransformerConfig
from archlab.interop import torch_translator

TINY = Shape(2, 7, 40, TransformerConfig(width=16, depth=2, heads=2, feed_forward=24))
SHAPES = {architecture: replace(TINY, architecture=architecture) for architecture in train.CONTENDERS}
Found = dict[str, Contender]


def made(architecture: str) -> Found:
    return train.CONTENDERS[architecture](SHAPES[architecture])


@pytest.fixture(params=["token-arm", "llama"])
def both(request: pytest.FixtureRequest) -> Found:
    return made(request.param)


def gradients(contender: Contender) -> dict[str, torch.Tensor]:
    contender.loss().backward()
    trained = {name: p.grad for name, p in contender.model.named_parameters() if p.requires_grad}
    found = {name: gradient for name, gradient in trained.items() if gradient is not None}
    assert found.keys() == trained.keys()
    return found


def test_both_compute_the_same_loss_and_the_same_gradients(both: Found) -> None:
    losses = train.check_equal_work(both)
    # Untrained logits of the token arm have variance 1, which adds 1/2 to ln V; those of LLaMA are near zero.
    excess = losses["archlab"] - np.log(TINY.vocabulary)
    assert excess == pytest.approx(0.5, abs=0.3) or excess == pytest.approx(0.0, abs=0.1)
    norms = {
        name: sorted(float(gradient.norm()) for gradient in gradients(contender).values())
        for name, contender in both.items()
    }
    np.testing.assert_allclose(norms["archlab"], norms["transformers"], rtol=1e-4)


MAPS: dict[str, Any] = {"gpt2": gpt2_peer.weights, "translator": torch_translator.weights}


@pytest.mark.parametrize("architecture", MAPS)
def test_layers_of_torch_compute_the_same_loss_and_the_same_gradients(architecture: str) -> None:
    found = made(architecture)
    losses = train.check_equal_work(found)
    assert set(losses) == {"archlab", "transformers", "torch.nn"}
    ours: Any = found["archlab"].model
    untrained = {name: torch.zeros_like(buffer) for name, buffer in ours.named_buffers() if name == "output_bias"}
    expected = MAPS[architecture](ours.config).to_hf(gradients(found["archlab"]) | untrained)
    expected = {name: gradient for name, gradient in expected.items() if name not in untrained}
    other = gradients(found["torch.nn"])
    assert other.keys() == expected.keys()
    for name, gradient in other.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


def test_ours_is_the_first_and_every_other_one_is_its_peer() -> None:
    assert [list(made(name)) for name in SHAPES] == [
        ["archlab", "transformers"],
        ["archlab", "transformers"],
        ["archlab", "transformers", "torch.nn"],
        ["archlab", "transformers", "torch.nn"],
    ]


@pytest.mark.parametrize("architecture", SHAPES)
def test_all_stay_equal_while_they_train(architecture: str) -> None:
    """Same optimiser, same settings: after a few updates the losses are still the same, and lower."""
    found = made(architecture)
    before = train.check_equal_work(found)
    for contender in found.values():
        step = train.training_step(contender, "float32")
        for _ in range(5):
            step()
    after = train.check_equal_work(found)
    assert after["archlab"] < before["archlab"] - 0.01


def test_the_arm_reads_masks_as_large_as_those_of_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    """The flag that the peer may set instead would be another path than the one that the comparison trains."""
    seen: list[torch.Tensor] = []
    fused = torch.nn.functional.scaled_dot_product_attention

    def spy(queries: Any, keys: Any, values: Any, mask: torch.Tensor, *options: Any, **more: Any) -> Any:
        seen.append(mask)
        return fused(queries, keys, values, mask, *options, **more)

    monkeypatch.setattr("archlab.layers.attention.F.scaled_dot_product_attention", spy)
    made("token-arm")["archlab"].loss()
    assert len(seen) == TINY.stack.depth
    for mask in seen:
        assert torch.equal(mask, torch.ones(2, 1, 7, 7, dtype=torch.bool).tril())


@pytest.mark.parametrize(
    ("architecture", "path"), [("gpt2", "encoder.norm.weight"), ("translator", "stacks.decoder.layers.1.norm3.weight")]
)
def test_layers_of_torch_with_other_weights_are_refused(architecture: str, path: str) -> None:
    found = made(architecture)
    with torch.no_grad():
        found["torch.nn"].model.get_parameter(path).mul_(3)
    with pytest.raises(RuntimeError, match="do not do equal work: losses"):
        train.check_equal_work(found)


def test_a_peer_with_other_weights_is_refused(both: Found) -> None:
    with torch.no_grad():
        both["transformers"].model.model.layers[0].mlp.up_proj.weight.mul_(3)  # type: ignore[union-attr, index]
        both["transformers"].model.model.norm.weight.mul_(1.5)  # type: ignore[union-attr]
    with pytest.raises(RuntimeError, match="do not do equal work: losses"):
        train.check_equal_work(both)


def test_a_peer_that_trains_fewer_parameters_is_refused(both: Found) -> None:
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
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(train.machine, "matmul_peak", lambda precision, clock: 2.0)
    out = tmp_path / "folder" / "bench.json"
    results = train.bench_train(SHAPES, rounds=4, warmup=1, precision=precision, out=out, clock=_seconds())
    assert json.loads(out.read_text(encoding="utf-8")) == results
    assert [path.name for path in out.parent.iterdir()] == ["bench.json"]

    for name, shape in results["shapes"].items():
        assert set(shape["contenders"]) == {"archlab", "transformers"} | ({"torch.nn"} if name in MAPS else set())
        for code, values in shape["contenders"].items():
            assert values["milliseconds"] == 1000
            assert values["tokens_per_second"] == TINY.samples * TINY.tokens
            assert values["gflops"] == pytest.approx(values["flops_per_step"] / 1e9)
            assert values["share_of_peak"] == pytest.approx(values["gflops"] / 2)
            assert values.get("ratio") == (None if code == "archlab" else {"value": 1.0, "low": 1.0, "high": 1.0})
    printed = capsys.readouterr().out
    assert "2x7 16x2" in printed
    assert "torch.nn" in printed
    assert "1.00 [1.00, 1.00]" in printed
    assert "…" not in printed


def test_a_ratio_is_our_time_over_the_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"archlab": 2.0, "transformers": 1.0, "torch.nn": 4.0}
    monkeypatch.setattr(train, "alternate", lambda steps, **_: {name: np.full(3, seconds[name]) for name in steps})
    measured = train.compare(SHAPES["gpt2"], 1.0, rounds=3)["contenders"]
    assert [measured[name]["ratio"]["value"] for name in ("transformers", "torch.nn")] == [2.0, 0.5]


def test_one_shape_is_the_trunk_of_the_comparison() -> None:
    assert train.SHAPES["trunk"].stack == RunConfig().trunk
