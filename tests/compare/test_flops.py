"""Counted and predicted operations must agree to the last one: both leave out the same things."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from archlab.compare.flops import (
    BatchShape,
    Sizes,
    counted_flops,
    equal_steps,
    stack_flops,
    training_flops,
)
from archlab.config import ContrastiveConfig, RunConfig
from archlab.data.batch import Batch
from archlab.layers.attention import set_implementation
from archlab.layers.block import TransformerStack
from archlab.objectives.classification import Classification
from archlab.objectives.contrastive import InfoNCE
from archlab.objectives.embedding_prediction import EmbeddingPrediction
from archlab.objectives.next_token import NextToken
from archlab.vl.arms import build_arm

OBJECTIVES: dict[str, Any] = {
    "token": NextToken,
    "vljepa": lambda: EmbeddingPrediction(InfoNCE(ContrastiveConfig())),
    "supervised": Classification,
}


def _arm(run: RunConfig, sizes: Sizes) -> Any:
    return build_arm(run, sizes.feature_width, sizes.vocab_size, sizes.meanings)


@pytest.mark.parametrize("implementation", ["fused", "readable"])
@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_a_training_step_costs_what_the_formula_says(
    name: Any, implementation: Any, run: RunConfig, sizes: Sizes, shape: BatchShape, batch: Batch
) -> None:
    run = replace(run, arm=name)
    arm, objective = _arm(run, sizes), OBJECTIVES[name]()
    set_implementation(arm, implementation)
    counted = counted_flops(lambda: objective(arm, batch).loss.backward())
    assert counted == sum(training_flops(run, sizes, shape).values())


def test_fused_attention_is_counted(run: RunConfig) -> None:
    """PyTorch's own counter sees no attention on the processor: the length of the keys would make no difference."""
    stack, short, long = TransformerStack(run.trunk), torch.randn(1, 4, 32), torch.randn(1, 8, 32)
    with torch.no_grad():
        counted = [counted_flops(lambda x=x: stack(x)) for x in (short, long)]
    assert counted == [stack_flops(run.trunk, tokens) for tokens in (4, 8)]
    assert counted[1] > 2 * counted[0]


costs = st.lists(st.integers(1, 100), min_size=1, max_size=30)


@given(costs, costs)
def test_runs_of_equal_operations_differ_by_less_than_a_step(first: list[int], second: list[int]) -> None:
    steps = equal_steps(first, second)
    spent = sum(first[: steps[0]]), sum(second[: steps[1]])
    assert min(steps) >= 1
    assert steps[0] == len(first) or steps[1] == len(second)
    assert abs(spent[0] - spent[1]) <= max(first + second)


def test_the_dearer_run_takes_fewer_steps() -> None:
    assert equal_steps([1] * 10, [2] * 10) == (10, 5)
    assert equal_steps([2] * 10, [1] * 10) == (5, 10)
    assert equal_steps([3] * 4, [3] * 4) == (4, 4)
    assert equal_steps([1] * 10, [3] * 10) == (10, 3)  # nine operations are nearer to ten than twelve
    assert equal_steps([1] * 11, [3] * 10) == (11, 4)  # and twelve nearer to eleven than nine
