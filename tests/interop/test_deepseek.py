"""DeepSeek-V3: the options that the tiny configuration of the registry leaves at one value."""

import dataclasses

import pytest

from archlab.interop.parity import run
from archlab.interop.parity.twin import build
from archlab.models.registry import find


@pytest.mark.parametrize(
    "options",
    [
        {"query_latent": 0, "groups": 1, "chosen_groups": 1},
        {"interleaved": False, "rotary_scaling": None},
        {"renormalise": False, "dense_layers": 0},
        {"rotary_scaling": {"factor": 4.0, "original_context": 8}},
    ],
    ids=lambda options: next(iter(options)),
)
def test_every_option_equals_the_reference(options):
    family = find("deepseek")
    twin = build(dataclasses.replace(family, tiny=dict(family.tiny) | {"depth": 2} | options))
    assert [(check.name, check.where, check.error) for check in run.compare(twin) if not check.passed] == []
