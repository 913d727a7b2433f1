from __future__ import annotations

import pytest
import torch
from torch import nn

from archlab.config import OptimizerConfig
from archlab.train.optim import adamw, parameter_groups


class Model(nn.Module):
    """Matrices, vectors, a class token, a tied and a frozen part."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.class_token = nn.Parameter(torch.ones(1, 1, 4))
        self.norm = nn.LayerNorm(4)
        self.target = nn.Linear(4, 4)
        self.target_norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


def group_of(groups: list[dict], parameter: nn.Parameter) -> dict:
    found = [group for group in groups if any(parameter is other for other in group["params"])]
    assert len(found) == 1
    return found[0]


def test_only_matrices_decay() -> None:
    model = Model()
    groups = parameter_groups(model, weight_decay=0.1)
    for decaying in (model.embedding.weight, model.target.weight):
        assert group_of(groups, decaying)["weight_decay"] == 0.1
    for kept in (model.class_token, model.norm.weight, model.norm.bias, model.target.bias):
        assert group_of(groups, kept)["weight_decay"] == 0.0


def test_a_scale_reaches_its_submodule_and_not_a_neighbour_whose_name_begins_alike() -> None:
    model = Model()
    groups = parameter_groups(model, 0.1, {"target": 0.05})
    assert group_of(groups, model.target.weight)["scale"] == 0.05
    assert group_of(groups, model.target.bias)["scale"] == 0.05
    assert group_of(groups, model.target_norm.weight)["scale"] == 1.0
    assert group_of(groups, model.embedding.weight)["scale"] == 1.0


def test_frozen_parameters_are_left_out_and_shared_ones_appear_once() -> None:
    model = Model()
    listed = [parameter for group in parameter_groups(model, 0.1) for parameter in group["params"]]
    assert {id(parameter) for parameter in listed} == {id(p) for p in model.parameters() if p.requires_grad}
    assert len(listed) == len({id(parameter) for parameter in listed})


def test_a_scale_without_effect_is_an_error() -> None:
    with pytest.raises(ValueError, match="targt"):
        parameter_groups(Model(), 0.1, {"targt": 0.05})


def test_adamw_holds_the_parameters_of_the_objective_too() -> None:
    model, objective = nn.Linear(3, 3), nn.ParameterList([nn.Parameter(torch.tensor(0.07))])
    optimizer = adamw(model, objective, config=OptimizerConfig(weight_decay=0.3), scales={"weight": 0.5})
    assert group_of(optimizer.param_groups, objective[0])["weight_decay"] == 0.0
    assert group_of(optimizer.param_groups, model.weight)["scale"] == 0.5
    assert group_of(optimizer.param_groups, model.weight)["weight_decay"] == 0.3


def test_a_part_clipped_apart_is_marked_and_a_misspelt_one_is_an_error() -> None:
    model = Model()
    groups = parameter_groups(model, 0.1, clipped_apart=["target"])
    apart = group_of(groups, model.target.weight)["clip"]
    assert apart == group_of(groups, model.target.bias)["clip"]
    assert {group_of(groups, p)["clip"] for p in (model.target_norm.weight, model.embedding.weight)} == {""} != {apart}
    with pytest.raises(ValueError, match="targt"):
        parameter_groups(model, 0.1, clipped_apart=["targt"])
