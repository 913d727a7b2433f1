"""One layer that stands for several gives what each gives alone."""

import copy

import pytest
import torch
from torch import nn

from archlab.layers.attention import Attention
from archlab.layers.feedforward import GatedMLP
from archlab.layers.positions import RotaryEmbedding

LAYERS = pytest.mark.parametrize(
    "make",
    [
        lambda: Attention(16, 4),
        lambda: Attention(16, 4, key_value_heads=2, bias=True),
        lambda: GatedMLP(16, 24),
        lambda: GatedMLP(16, 24, bias=True),
    ],
    ids=["attention", "grouped attention with biases", "gated", "gated with biases"],
)


def linear(weight, bias):
    layer = nn.Linear(*weight.T.shape, bias=bias is not None)
    layer.weight = nn.Parameter(weight)
    if bias is not None:
        layer.bias = nn.Parameter(bias)
    return layer


def pair(make):
    """A layer, and a copy of it whose projections are joined."""
    torch.manual_seed(0)
    apart = make()
    together = copy.deepcopy(apart)
    with torch.no_grad():
        together.join(linear)
    return apart, together, torch.randn(3, 5, 16)


@LAYERS
def test_one_product_gives_what_several_give(make):
    apart, together, x = pair(make)
    torch.testing.assert_close(together(x), apart(x))
    with torch.no_grad():
        together.joined.weight.mul_(1.5)
    assert not torch.allclose(together(x), apart(x))


@LAYERS
def test_what_was_joined_keeps_no_weights_of_its_own(make):
    apart, together, _ = pair(make)
    assert all(layer.weight is None and layer.bias is None for layer in together.projections())
    count = [sum(parameter.numel() for parameter in layer.parameters()) for layer in (apart, together)]
    assert count[0] == count[1]


def test_rotary_positions_are_turned_as_before():
    apart, together, x = pair(lambda: Attention(16, 4))
    rotation = RotaryEmbedding(4)(torch.arange(5)[None])
    torch.testing.assert_close(together(x, rotation=rotation), apart(x, rotation=rotation))
