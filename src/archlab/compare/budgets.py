"""Budgets: what is equal between the arms, what may differ, and the refusal of anything else.

A budget turns one run into the runs of both arms by a recorded rule. Before anything is compared, `check_arms` proves
that configurations, data, features and order differ in nothing but what the budget declares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from archlab.compare.cost import parameter_counts
from archlab.compare.flops import BatchShape, Sizes, equal_steps, training_flops
from archlab.config import RunConfig, TransformerConfig, flatten, to_dict
from archlab.data.order import Order
from archlab.errors import UserError
from archlab.vl.arms import build_arm

BudgetName = Literal["shared", "paper", "equal-params", "equal-flops"]

ALWAYS = frozenset({"arm", "optimizer.learning_rate"})
"""May differ under every budget: the arm itself, and the learning rate, which each arm tunes by equal trials."""
_TUNED = "optimizer.learning_rate"
_TOLERANCE = 0.01  # of equal parameters


@dataclass(frozen=True)
class Budget:
    """The runs of both arms.

    Attributes:
        name: of the budget.
        token, vljepa: the run of each arm.
        rule: what is equal and how it was made so, one sentence for the report.
        may_differ: dotted keys of the configuration in which the two runs may differ.
    """

    name: str
    token: RunConfig
    vljepa: RunConfig
    rule: str
    may_differ: frozenset[str]


@dataclass(frozen=True)
class Inputs:
    """What a run reads.

    Attributes:
        data: split -> digest of its examples and images.
        features: digest of the cached features.
        order: which examples, in which forms, at which step.
    """

    data: dict[str, str]
    features: str
    order: Order


def apply_budget(name: BudgetName, run: RunConfig, sizes: Sizes, shapes: Sequence[BatchShape] = ()) -> Budget:
    """The runs of both arms under a budget.

    Args:
        name: of the budget.
        run: what both share.
        sizes: of the vocabulary and the features, on which parameters and operations depend.
        shapes: of the batch at every step of `run`; `equal-flops` needs them.

    Raises:
        UserError: no trunk has the wanted number of parameters.
    """
    token, vljepa = replace(run, arm="token"), replace(run, arm="vljepa")
    if name == "shared":
        rule = "both arms have the same trunk, batches and steps; target encoder and text decoder come on top"
        return Budget(name, token, vljepa, rule, ALWAYS)
    if name == "paper" and run.language.weights:
        layers = run.language.layers
        rule = (
            f"0.5 : 1: the predictor of vljepa is the last {layers} layers of {run.language.weights}, the token arm's "
            f"trunk its last {2 * layers}; target encoder and text decoder come on top"
        )
        token = replace(token, language=replace(run.language, layers=2 * layers))
        return Budget(name, token, vljepa, rule, ALWAYS | {"language.layers"})
    if name == "paper":
        trunk = replace(run.trunk, depth=2 * run.trunk.depth)
        rule = (
            f"0.5 : 1: the predictor of vljepa is half of the token arm's trunk, {run.trunk.depth} of its "
            f"{trunk.depth} layers; target encoder and text decoder come on top"
        )
        return Budget(name, replace(token, trunk=trunk), vljepa, rule, ALWAYS | {"trunk.depth"})
    if name == "equal-params" and run.language.weights:
        raise UserError("budget 'equal-params': a pretrained trunk cannot be resized; use 'shared' or 'paper'")
    if name == "equal-params":
        goal = _trained_parameters(vljepa, sizes)
        trunk = _enlarge(token, sizes, goal)
        token = replace(token, trunk=trunk)
        have = _trained_parameters(token, sizes)
        rule = (
            f"the token arm's trunk is enlarged to depth {trunk.depth} and feed-forward {trunk.feed_forward}, {have:,} "
            f"trainable parameters, to match the {goal:,} of vljepa with its head and target encoder; the text decoder "
            f"comes on top, because it teaches the rest nothing: vljepa classifies and retrieves without it"
        )
        return Budget(name, token, vljepa, rule, ALWAYS | {"trunk.depth", "trunk.feed_forward"})

    if len(shapes) != run.optimizer.steps:
        raise ValueError(f"shapes: {len(shapes)} given, equal-flops needs one for each of {run.optimizer.steps} steps")
    costs = {arm.arm: [sum(training_flops(arm, sizes, shape).values()) for shape in shapes] for arm in (token, vljepa)}
    steps = dict(zip(costs, equal_steps(*costs.values()), strict=True))
    token, vljepa = (replace(arm, optimizer=replace(run.optimizer, steps=steps[arm.arm])) for arm in (token, vljepa))
    flops = {arm: sum(cost[: steps[arm]]) for arm, cost in costs.items()}
    rule = (
        f"the same trunk and equal training operations: {steps['token']} steps ({flops['token']:.4g} FLOPs) for token, "
        f"{steps['vljepa']} steps ({flops['vljepa']:.4g} FLOPs) for vljepa, with target encoder and text decoder; the "
        f"shorter run reads a prefix of the longer one's order, and each schedule spans its own run"
    )
    return Budget(name, token, vljepa, rule, ALWAYS | {"optimizer.steps"})


def check_arms(
    token: RunConfig, vljepa: RunConfig, budget: Budget, token_inputs: Inputs, vljepa_inputs: Inputs
) -> dict[str, list[Any]]:
    """Refuse arms that differ in anything but what the budget declares.

    Args:
        token, vljepa: the resolved runs, with their tuned learning rates.
        token_inputs, vljepa_inputs: what they read. Where one run is shorter, its order must begin the longer one's.

    Returns:
        dotted key -> values of both arms, for every key that differs.

    Raises:
        UserError: a key outside `budget.may_differ` differs, an arm left the budget's rule, or data, features or order
            are not the same.
    """
    differs = _differences(token, vljepa)
    for key, (ours, theirs) in differs.items():
        if key not in budget.may_differ:
            raise UserError(
                f"{key}: {ours!r} for token, {theirs!r} for vljepa; budget {budget.name!r} lets only "
                f"{', '.join(sorted(budget.may_differ))} differ; set both to one value"
            )
    for run, ruled in ((token, budget.token), (vljepa, budget.vljepa)):
        for key, (found, wanted) in _differences(run, ruled).items():
            if key != _TUNED:
                raise UserError(
                    f"{key}: {found!r} for {ruled.arm}; budget {budget.name!r} sets it to {wanted!r}; restore that"
                )
    shared_steps = min(token.optimizer.steps, vljepa.optimizer.steps)
    for run, inputs in ((token, token_inputs), (vljepa, vljepa_inputs)):
        if len(inputs.order.rows) < run.optimizer.steps:
            raise UserError(
                f"order of {run.arm}: {len(inputs.order.rows)} steps for optimizer.steps={run.optimizer.steps}; "
                f"draw it for all of them"
            )
    digests = [
        {**{f"data digest of split {split!r}": digest for split, digest in inputs.data.items()},
         "features digest": inputs.features,
         f"order digest of the first {shared_steps} steps": inputs.order.digest(shared_steps)}
        for inputs in (token_inputs, vljepa_inputs)
    ]  # fmt: skip
    for what in digests[0] | digests[1]:
        ours, theirs = (digest.get(what) for digest in digests)
        if ours != theirs:
            raise UserError(
                f"{what}: {ours} for token, {theirs} for vljepa; under every budget both arms read the same; "
                f"train both again on one data set"
            )
    return differs


def _differences(first: RunConfig, second: RunConfig) -> dict[str, list[Any]]:
    left, right = flatten(to_dict(first)), flatten(to_dict(second))
    return {key: [left.get(key), right.get(key)] for key in left | right if left.get(key) != right.get(key)}


def _trained_parameters(run: RunConfig, sizes: Sizes) -> int:
    """Trainable parameters of an arm without the text decoder, counted without allocating them."""
    with torch.device("meta"):
        arm = build_arm(run, sizes.feature_width, sizes.vocab_size, sizes.meanings)
    counts = parameter_counts(arm)
    return int(counts["trainable"] - counts["parts"]["decoder"])


def _enlarge(run: RunConfig, sizes: Sizes, goal: int) -> TransformerConfig:
    """The run's trunk with as many whole layers more as fit into `goal` parameters, the rest as wider feed-forward."""

    def count(**changes: int) -> int:
        return _trained_parameters(replace(run, trunk=replace(run.trunk, **changes)), sizes)

    depth, feed_forward, have = run.trunk.depth, run.trunk.feed_forward, count()
    depth += (goal - have) // (count(depth=depth + 1) - have)
    have = count(depth=depth)
    per_unit = count(depth=depth, feed_forward=feed_forward + 1) - have
    for multiple in (8, 1):  # matrices whose sides are multiples of 8 are the fast ones
        wider = feed_forward + multiple * round((goal - have) / per_unit / multiple)
        if abs(count(depth=depth, feed_forward=wider) - goal) <= _TOLERANCE * goal:
            return replace(run.trunk, depth=depth, feed_forward=wider)
    raise UserError(
        f"budget 'equal-params': no token trunk of width {run.trunk.width} has {goal:,} parameters to within "
        f"{_TOLERANCE:.0%}; use a deeper or wider trunk"
    )
