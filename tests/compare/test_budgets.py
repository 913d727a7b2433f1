from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from archlab.compare.budgets import Budget, Inputs, apply_budget, check_arms
from archlab.compare.cost import parameter_counts
from archlab.compare.flops import BatchShape, Sizes, training_flops
from archlab.config import CompressionConfig, RunConfig, TransformerConfig, build, flatten, to_dict
from archlab.data.order import Order
from archlab.errors import UserError
from archlab.vl.arms import build_arm

NAMES: list[Any] = ["shared", "paper", "equal-params", "equal-flops"]


@pytest.fixture
def shapes(run: RunConfig) -> list[BatchShape]:
    """Batches of answers and, now and then, of much longer captions."""
    return [BatchShape(5, 9, 6, 40 if step % 3 else 8) for step in range(run.optimizer.steps)]


def _inputs(run: RunConfig, seed: int = 0, **changes: Any) -> Inputs:
    order = Order.draw([np.arange(20)], run.optimizer.steps, run.optimizer.batch_size, seed)
    return replace(Inputs(data={"train": "aa", "test": "bb"}, features="cc", order=order), **changes)


def _check(budget: Budget, **changes: Any) -> dict[str, list[Any]]:
    inputs = {"token_inputs": _inputs(budget.token), "vljepa_inputs": _inputs(budget.vljepa)}
    return check_arms(**({"token": budget.token, "vljepa": budget.vljepa, "budget": budget} | inputs | changes))


def _trained(run: RunConfig, sizes: Sizes) -> dict[str, Any]:
    return parameter_counts(build_arm(run, sizes.feature_width, sizes.vocab_size, sizes.meanings))


def test_under_shared_only_the_arm_differs(run: RunConfig, sizes: Sizes) -> None:
    budget = apply_budget("shared", run, sizes)
    assert replace(budget.token, arm="vljepa") == budget.vljepa == replace(run, arm="vljepa")
    assert budget.token.arm == "token"
    assert budget.may_differ == {"arm", "optimizer.learning_rate"}
    assert _check(budget) == {"arm": ["token", "vljepa"]}


def test_under_paper_the_predictor_has_half_of_the_token_arms_layers(run: RunConfig, sizes: Sizes) -> None:
    budget = apply_budget("paper", run, sizes)
    blocks = {
        arm.arm: sum(
            parameter.numel()
            for parameter in build_arm(arm, 24, 300, 7).backbone.trunk.blocks.parameters()
        )
        for arm in (budget.token, budget.vljepa)
    }  # fmt: skip
    assert blocks["token"] == 2 * blocks["vljepa"]
    assert budget.vljepa.trunk == run.trunk
    assert _check(budget) == {"arm": ["token", "vljepa"], "trunk.depth": [4, 2]}


@pytest.mark.parametrize(
    "trunk",
    [
        TransformerConfig(width=32, depth=2, heads=2, feed_forward=88),
        TransformerConfig(width=64, depth=1, heads=2, feed_forward=100),
        TransformerConfig(),
    ],
)
def test_under_equal_params_both_arms_train_as_many_parameters(
    trunk: TransformerConfig, run: RunConfig, sizes: Sizes
) -> None:
    budget = apply_budget("equal-params", replace(run, trunk=trunk), sizes)
    token, vljepa = (_trained(arm, sizes) for arm in (budget.token, budget.vljepa))
    goal = vljepa["trainable"] - vljepa["parts"]["decoder"]
    assert token["trainable"] == pytest.approx(goal, rel=0.01)
    assert budget.token.trunk.depth > trunk.depth or budget.token.trunk.feed_forward > trunk.feed_forward
    assert budget.vljepa.trunk == trunk
    assert budget.token.trunk.width == trunk.width
    assert f"{token['trainable']:,}" in budget.rule
    assert set(_check(budget)) <= {"arm", "trunk.depth", "trunk.feed_forward"}


def test_parameters_that_no_trunk_can_match_are_refused(run: RunConfig, sizes: Sizes) -> None:
    """One unit more of feed-forward in each of 40 narrow layers is a larger step than 1 % of all parameters."""
    narrow = TransformerConfig(width=8, depth=40, heads=1, feed_forward=1)
    small = replace(run.vljepa, target=TransformerConfig(width=4, depth=1, heads=1, feed_forward=1), embedding=1)
    with pytest.raises(UserError, match=r"'equal-params': no token trunk of width 8 has [\d,]+ parameters"):
        apply_budget("equal-params", replace(run, trunk=narrow, vljepa=small), Sizes(1, 10, 7))


def test_under_equal_flops_both_arms_spend_as_much(run: RunConfig, sizes: Sizes, shapes: list[BatchShape]) -> None:
    budget = apply_budget("equal-flops", run, sizes, shapes)
    spent, step = {}, 0
    for arm in (budget.token, budget.vljepa):
        costs = [sum(training_flops(arm, sizes, shape).values()) for shape in shapes[: arm.optimizer.steps]]
        spent[arm.arm], step = sum(costs), max(step, *costs)
    steps = {budget.token.optimizer.steps, budget.vljepa.optimizer.steps}
    assert abs(spent["token"] - spent["vljepa"]) < step
    assert len(steps) == 2
    assert max(steps) == run.optimizer.steps
    assert budget.token.trunk == budget.vljepa.trunk
    assert set(_check(budget)) == {"arm", "optimizer.steps"}


def test_equal_flops_needs_the_shape_of_every_step(run: RunConfig, sizes: Sizes, shapes: list[BatchShape]) -> None:
    with pytest.raises(ValueError, match="shapes: 11 given"):
        apply_budget("equal-flops", run, sizes, shapes[:-1])


@pytest.mark.parametrize("name", NAMES)
def test_learning_rates_may_be_tuned_under_every_budget(
    name: Any, run: RunConfig, sizes: Sizes, shapes: list[BatchShape]
) -> None:
    budget = apply_budget(name, run, sizes, shapes)
    tuned = replace(budget.token, optimizer=replace(budget.token.optimizer, learning_rate=0.5))
    assert _check(budget, token=tuned)["optimizer.learning_rate"] == [0.5, run.optimizer.learning_rate]


def _other(value: Any) -> Any:
    """Another valid value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return 2 * value or 1  # twice the width, heads or steps is valid where the value is
    if isinstance(value, float):
        return value / 2 or 0.5
    if isinstance(value, list):
        return [*value, "x"]
    return f"{value}x"


_LITERALS = {
    "data.pairs.on_error": "skip",
    "token.attention": "causal",
    "vljepa.loss.positives": "none",
    "vljepa.objective": "cosine",
    "vljepa.predictor.kind": "none",
    "vljepa.predictor.attention": "causal",
    "token.architecture": "encoder-decoder",
    "start.parts": ["head"],
    "optimizer.schedule": "constant",
    "optimizer.precision": "bfloat16",
    "device": "cpu",
    "parallel": "fsdp",
    "data.scenes.paraphrases": 8,
    "data.pairs.columns": {"image": "x"},
}


# The arm may differ, and the others need other values beside them: another predictor, no size of the trunk, a parent.
_BY_THEMSELVES = ("arm", "vljepa.predictor.reconstruction", "language.weights", "compression.")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("key", [key for key in flatten(to_dict(RunConfig())) if not key.startswith(_BY_THEMSELVES)])
def test_no_undeclared_difference_passes(
    key: str, name: Any, run: RunConfig, sizes: Sizes, shapes: list[BatchShape]
) -> None:
    """Every key of the configuration in turn, under every budget."""
    budget = apply_budget(name, run, sizes, shapes)
    if key in budget.may_differ:
        return
    raw = to_dict(budget.token)
    *sections, last = key.split(".")
    node = raw
    for section in sections:
        node = node[section]
    before = node[last]
    node[last] = _LITERALS.get(key, _other(before))
    with pytest.raises(UserError) as caught:
        _check(budget, token=build(RunConfig, raw))
    message = str(caught.value)
    assert message.startswith(key)
    assert repr(name) in message
    if key != "data.pairs.columns":  # flattened: its one entry has a key of its own
        assert f"{node[last]!r} for token, {before!r} for vljepa" in message


def test_an_arm_that_was_compressed_is_no_match_for_one_that_was_not(run: RunConfig, sizes: Sizes) -> None:
    budget = apply_budget("shared", run, sizes)
    smaller = replace(budget.token, compression=CompressionConfig(method="magnitude", parent="0" * 64))
    with pytest.raises(UserError, match=r"^compression\.method: 'magnitude' for token, 'none' for vljepa"):
        _check(budget, token=smaller)


def test_a_declared_key_must_have_the_value_that_the_rule_gave_it(run: RunConfig, sizes: Sizes) -> None:
    budget = apply_budget("paper", run, sizes)
    deeper = replace(budget.token, trunk=replace(budget.token.trunk, depth=9))
    with pytest.raises(UserError, match=r"trunk\.depth: 9 for token; budget 'paper' sets it to 4"):
        _check(budget, token=deeper)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"train": "XX", "test": "bb"}}, "data digest of split 'train': aa for token, XX for vljepa"),
        ({"data": {"train": "aa"}}, "data digest of split 'test': bb for token, None for vljepa"),
        ({"features": "XX"}, "features digest: cc for token, XX for vljepa"),
        ({"seed": 1}, "order digest of the first"),
    ],
)
def test_arms_that_read_something_else_are_refused_under_every_budget(
    changes: dict[str, Any],
    message: str,
    name: Any,
    run: RunConfig,
    sizes: Sizes,
    shapes: list[BatchShape],
) -> None:
    budget = apply_budget(name, run, sizes, shapes)
    with pytest.raises(UserError, match=message):
        _check(budget, vljepa_inputs=_inputs(budget.vljepa, **changes))


def test_one_order_drawn_for_the_longer_run_serves_both(run: RunConfig, sizes: Sizes, shapes: list[BatchShape]) -> None:
    budget = apply_budget("equal-flops", run, sizes, shapes)
    both = _inputs(run)
    assert "optimizer.steps" in _check(budget, token_inputs=both, vljepa_inputs=both)


def test_an_order_shorter_than_its_run_is_refused(run: RunConfig, sizes: Sizes) -> None:
    budget = apply_budget("shared", run, sizes)
    short = replace(run, optimizer=replace(run.optimizer, steps=11))
    with pytest.raises(UserError, match=r"order of token: 11 steps for optimizer\.steps=12"):
        _check(budget, token_inputs=_inputs(short))
