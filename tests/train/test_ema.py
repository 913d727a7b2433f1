from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from archlab.train.averaging import averaged
from archlab.train.ema import TargetAverage


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, 2)
        self.average = copy.deepcopy(self.encoder).requires_grad_(False)


def test_the_average_equals_its_closed_form() -> None:
    """prod(m) w_0 + sum over t of (1 - m_t) prod(m after t) w_t, with m_t from 0.9 in a line towards 1."""
    torch.manual_seed(0)
    steps, pair = 7, Pair().double()
    rule = TargetAverage(0.9, steps)
    start, history = pair.average.weight.clone(), []
    for step in range(1, steps + 1):
        with torch.no_grad():
            pair.encoder.weight += torch.randn(2, 3, dtype=torch.float64)
        history.append(pair.encoder.weight.detach().clone())
        rule.update(pair, step)
    momenta = [0.9 + 0.1 * number / steps for number in range(steps)]
    expected = start * torch.tensor(momenta, dtype=torch.float64).prod()
    for number, weights in enumerate(history):
        later = torch.tensor(momenta[number + 1 :], dtype=torch.float64).prod()
        expected = expected + (1 - momenta[number]) * later * weights
    torch.testing.assert_close(pair.average.weight, expected)


def test_momentum_rises_in_a_line_from_its_start_towards_one() -> None:
    rule = TargetAverage(0.996, 400)
    momenta = [rule.momentum_of(step) for step in range(1, 401)]
    assert momenta[0] == 0.996
    assert momenta[200] == pytest.approx(0.998)
    assert momenta[-1] == pytest.approx(1 - 0.004 / 400)
    steps = torch.tensor(momenta, dtype=torch.float64).diff()
    torch.testing.assert_close(steps, torch.full_like(steps, 0.004 / 400))


def test_it_moves_the_target_in_place_and_nothing_else() -> None:
    pair = Pair()
    encoder, target = pair.encoder.weight.detach().clone(), pair.average.weight
    with torch.no_grad():
        pair.encoder.bias += 1
    before = target.clone()
    TargetAverage(0.5, 2).update(pair, 1)
    assert pair.average.weight is target
    torch.testing.assert_close(target, before)  # the encoder's weight had not moved
    assert torch.equal(pair.encoder.weight, encoder)
    torch.testing.assert_close(pair.average.bias, pair.encoder.bias - 0.5)
    assert not target.requires_grad


def test_evaluations_see_the_model_as_it_is() -> None:
    pair, rule = Pair(), TargetAverage(0.5, 2)
    rule.update(pair, 1)
    weight = pair.encoder.weight.detach().clone()
    with averaged(pair, rule):
        assert torch.equal(pair.encoder.weight, weight)
    rule.load_state_dict(rule.state_dict())
    assert rule.weights() == {}
