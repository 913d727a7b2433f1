from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from archlab.bench import generate
from archlab.bench.pair import pair
from archlab.bench.quantised import quantise

LLAMA = {"vocab_size": 50, "context": 64, "width": 16, "depth": 2, "heads": 2, "key_value_heads": 1, "feed_forward": 24}
TINY = {
    "small": generate.Shape("llama", LLAMA, prompt=5, new=6),
    "smaller": generate.Shape(
        "gpt2",
        {"vocab_size": 50, "context": 64, "width": 16, "depth": 1, "heads": 2, "feed_forward": 24},
        prompt=5,
        new=6,
    ),
}


def made(shape: generate.Shape) -> Any:
    return pair(shape.family, shape.options)


@pytest.mark.parametrize("name", TINY)
def test_both_choose_the_same_tokens(name: str) -> None:
    ours, theirs = made(TINY[name])
    generate.check_equal_work(ours, theirs, generate.prompts(TINY[name], 3), 20)


def test_a_peer_with_other_weights_is_refused() -> None:
    ours, theirs = made(TINY["small"])
    with torch.no_grad():
        theirs.model.layers[0].mlp.up_proj.weight.mul_(30)
        theirs.lm_head.weight.copy_(theirs.lm_head.weight.flip(0))
    with pytest.raises(RuntimeError, match="do not do equal work: they choose"):
        generate.check_equal_work(ours, theirs, generate.prompts(TINY["small"], 3), 8)


def test_a_token_reads_every_weight_of_a_product_once_and_the_keys_and_values_before_it() -> None:
    """Linear layers and the head; keys and values of one of two heads count for each head that reads them."""
    shape = TINY["small"]
    ours, _ = made(shape)
    width, depth, forward, vocabulary = 16, 2, 24, 50
    weights = depth * (2 * width**2 + 2 * width * width // 2 + 3 * width * forward) + width * vocabulary
    tokens = shape.prompt + shape.new // 2 + 1
    assert generate.bytes_per_token(ours, shape, "float32") == 4 * (weights + depth * 2 * width * tokens)
    assert generate.bytes_per_token(ours, shape, "bfloat16") == 2 * (weights + depth * 2 * width * tokens)
    small = weights - width * vocabulary  # but for the output layer, all is quantised
    assert generate.bytes_per_token(ours, shape, "int8") == small + 4 * (
        width * vocabulary + depth * 2 * width * tokens
    )


def test_the_shapes_have_the_sizes_that_they_are_named_after() -> None:
    for name, shape in generate.SHAPES.items():
        family = generate.find(shape.family)
        with torch.device("meta"):
            model = family.model_class(generate.build(family.config_class, dict(shape.options)))
        count = sum(parameter.numel() for parameter in model.parameters())
        assert name == f"{count / 1e6:.0f}M"


@pytest.mark.parametrize(("name", "layers"), [("small", (14, 14)), ("smaller", (6, 4))])
@torch.no_grad()
def test_quantised_models_have_8_bit_weights_in_every_layer_but_the_output_and_say_nearly_the_same(
    name: str, layers: tuple[int, int]
) -> None:
    """Queries, keys and values are three layers in ours and one in the GPT-2 of `transformers`."""
    for model, count in zip(made(TINY[name]), layers, strict=True):
        small = quantise(model)
        quantised = [layer for layer in small.modules() if isinstance(layer, torch.ao.nn.quantized.dynamic.Linear)]
        assert len(quantised) == count
        assert not any(type(layer).__name__ == "Conv1D" for layer in small.modules())
        tokens = generate.prompts(TINY[name], 2)
        found, expected = (logits(one, tokens) for one in (small, model))
        assert 0 < (found - expected).abs().max() < 0.1 * expected.std()


def logits(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    out = model(tokens)
    return out if isinstance(out, torch.Tensor) else out.logits


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_products_alone_are_every_product_of_a_generation(
    precision: generate.Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many, in the same order, of the same numbers: those of the prompts, and one token's for each that follows."""
    shape = TINY["small"]
    ours, theirs = made(shape)
    contenders = generate.prepare(shape, ours, theirs, (precision,), 3, compiled=False)[precision]
    products: list[tuple[int, ...]] = []
    plain = torch.nn.functional.linear
    small = torch.ao.nn.quantized.dynamic.Linear.forward

    def linear(x: torch.Tensor, *rest: Any) -> torch.Tensor:
        products.append(tuple(x.shape))
        return plain(x, *rest)

    def quantised(layer: Any, x: torch.Tensor) -> torch.Tensor:
        products.append(tuple(x.shape))
        return small(layer, x)

    monkeypatch.setattr(torch.nn.functional, "linear", linear)
    monkeypatch.setattr(torch.ao.nn.quantized.dynamic.Linear, "forward", quantised)
    tokens = generate.prompts(shape, 3)
    contenders["archlab"](tokens, shape.new)
    whole = products.copy()
    products.clear()
    contenders["products"](tokens, shape.new)
    assert len(whole) > shape.new
    assert products == whole


def _seconds() -> Any:
    """A clock that moves on by a second at every look."""
    return itertools.count().__next__


def test_the_benchmark_prints_a_table_and_writes_what_it_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate.machine, "matvec_bandwidth", lambda precision, clock: 2.0)
    out = tmp_path / "folder" / "bench.json"
    results = generate.bench_generate(TINY, batches=(1, 3), rounds=4, compiled=False, out=out, clock=_seconds())
    assert json.loads(out.read_text(encoding="utf-8")) == results
    for name, shape in TINY.items():
        for batch, measured in results["shapes"][name]["batches"].items():
            assert set(measured) == {"float32", "bfloat16", "int8"}
            for codes in measured.values():
                assert set(codes) == {"archlab", "products", "transformers"}
                for share in ("ratio", "share_of_products"):
                    assert codes["archlab"][share] == {"value": 1.0, "low": 1.0, "high": 1.0}
                for values in codes.values():
                    assert values["milliseconds"] == 1000
                    assert values["tokens_per_second"] == int(batch) * shape.new
                    assert ("share_of_limit" in values) == (batch == "1")
    ours, _ = made(TINY["small"])
    for precision, codes in results["shapes"]["small"]["batches"]["1"].items():
        share = codes["archlab"]["share_of_limit"]
        assert share == pytest.approx(6 * generate.bytes_per_token(ours, TINY["small"], precision) / 2e9)
    printed = capsys.readouterr().out
    assert "llama small" in printed
    assert printed.count("1.00 (1.00-1.00)") == 2 * 2 * 3
