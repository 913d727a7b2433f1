"""A wrong recipe is one line that names the key, the value and the rule."""

from __future__ import annotations

from pathlib import Path

import pytest

from archlab.compress.recipe import CompressConfig, Variant, load_compress
from archlab.config import CompressionConfig, RunConfig
from archlab.errors import UserError


def test_the_built_in_recipe_has_one_variant_of_every_method() -> None:
    methods = [variant.method for variant in load_compress(None, []).named().values()]
    assert sorted(methods) == ["bfloat16", "distillation", "magnitude", "structured"]


def test_a_recipe_of_ones_own_and_keys_on_the_command_line_are_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("variants:\n  narrow: {method: structured, kept: 0.25}\n")
    config = load_compress(path, ["variants.narrow.steps=7", "latency_rounds=3"])
    assert config.named() == {"narrow": Variant(method="structured", kept=0.25, steps=7)}
    assert config.latency_rounds == 3


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("variants.half.method=halve", "variants.half: configuration key 'method': 'halve' must be one of bfloat16"),
        ("variants.half.sparsty=0.5", "did you mean 'sparsity'"),
        ("variants.half.sparsity=1", "sparsity=1.0: must be more than 0 and less than 1"),
        ("variants.half.kept=0", "kept=0.0: must be more than 0"),
        ("variants.half.method=distillation", "steps=0: a student has to learn"),
        ("variants.half.steps=5", "weights in bfloat16 are not trained"),
        ("variants.half=3", "variants.half=3: must be a section of keys"),
        ("variants.float32.method=magnitude", "variants.float32: must be lower-case words"),
        ("variants.Half.method=magnitude", "variants.Half: must be lower-case words"),
        ("variants={}", "names none; give at least one"),
        ("runtimes=[onnx]", "must hold 'torch'"),
        ("runtimes=[torch, tensorrt]", "must be"),
        ("latency_batches=[]", "must be one or more different values"),
    ],
)
def test_bad_input_is_named_with_its_rule(override: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        load_compress(None, [override])
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_what_a_method_reads_is_recorded() -> None:
    assert Variant(method="magnitude", sparsity=0.25).relevant() == {
        "sparsity": 0.25, "steps": 0, "learning_rate": 5e-4,
    }  # fmt: skip
    assert Variant().relevant() == {}


def test_a_run_is_not_configured_as_a_variant_by_hand() -> None:
    with pytest.raises(UserError, match="'archlab compress' sets it with the parent"):
        RunConfig(compression=CompressionConfig(method="structured"))
    with pytest.raises(UserError, match="only 'structured' leaves heads or channels out"):
        CompressionConfig(method="magnitude", parent="a", heads=2)


def test_no_variants_are_no_recipe() -> None:
    with pytest.raises(UserError, match="names none"):
        CompressConfig().named()
