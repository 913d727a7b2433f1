"""Layers that lie side by side in memory give what each gives alone."""

import copy

import pytest
import torch

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


def pair(make):
    """A layer, and a copy of it whose projections are joined."""
    torch.manual_seed(0)
    apart = make()
    together = copy.deepcopy(apart)
    together.join()
    return apart, together, torch.randn(3, 5, 16)


def called(layer):
    """The list that every call of one of the projections by itself is appended to."""
    calls = []
    for projection in layer.projections():
        projection.register_forward_hook(lambda *_: calls.append(1))
    return calls


@LAYERS
def test_one_product_gives_what_several_give_and_the_weights_keep_names_shapes_and_values(make):
    apart, together, x = pair(make)
    alone = called(together)
    with torch.no_grad():
        torch.testing.assert_close(together(x), apart(x))
    assert alone == []
    assert together.state_dict().keys() == apart.state_dict().keys()
    assert all(map(torch.equal, together.state_dict().values(), apart.state_dict().values()))


@LAYERS
def test_gradients_reach_the_weights_of_each(make):
    apart, together, x = pair(make)
    for layer in (apart, together):
        layer(x).square().sum().backward()
    for one, other in zip(together.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@LAYERS
@torch.no_grad()
def test_weights_that_change_in_place_change_the_one_product(make):
    apart, together, x = pair(make)
    before = together(x)
    for layer in (apart, together):
        for parameter in layer.parameters():
            parameter.mul_(1.5)
    torch.testing.assert_close(together(x), apart(x))
    assert not torch.allclose(together(x), before)
    other = make().state_dict()
    apart.load_state_dict(other)
    together.load_state_dict(other)
    torch.testing.assert_close(together(x), apart(x))


@LAYERS
@torch.no_grad()
def test_a_layer_that_is_cast_parts_again(make):
    apart, together, x = pair(make)
    alone = called(together)
    torch.testing.assert_close(together.double()(x.double()), apart.double()(x.double()))
    assert len(alone) == len(together.projections())


def test_cross_attention_reads_its_memory_as_before():
    apart, together, x = pair(lambda: Attention(16, 4))
    with torch.no_grad():
        torch.testing.assert_close(together(x, memory=x[:, :3]), apart(x, memory=x[:, :3]))
        rotation = RotaryEmbedding(4)(torch.arange(5)[None])
        torch.testing.assert_close(together(x, rotation=rotation), apart(x, rotation=rotation))
