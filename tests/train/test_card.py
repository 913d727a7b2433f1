from __future__ import annotations

from dataclasses import replace

from archlab.config import OptimizerConfig, PretrainConfig, RunConfig
from archlab.train.card import variant_line


def test_a_run_says_that_it_is_no_variant_and_where_its_products_were_less_precise_than_its_weights() -> None:
    plain = RunConfig()
    assert variant_line(plain) == "**Variant:** float32, as it was trained."
    mixed = replace(plain, optimizer=OptimizerConfig(precision="bfloat16"))
    assert variant_line(mixed) == "**Variant:** float32, as it was trained, with matrix products in bfloat16."


def test_an_encoder_is_no_variant_either() -> None:
    mixed = PretrainConfig(optimizer=OptimizerConfig(precision="bfloat16"))
    assert variant_line(mixed) == "**Variant:** float32, as it was trained, with matrix products in bfloat16."
