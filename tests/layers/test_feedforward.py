import math

import pytest
import torch

from archlab.layers.feedforward import MLP, GatedMLP


def gelu(x):
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def gelu_tanh(x):
    return x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def silu(x):
    return x / (1 + (-x).exp())


@pytest.mark.parametrize(
    ("name", "activation"), [("gelu", gelu), ("gelu-tanh", gelu_tanh), ("relu", lambda x: x.clamp(min=0))]
)
def test_mlp_is_its_formula(name, activation):
    mlp, x = MLP(6, 10, activation=name), torch.randn(2, 3, 6)
    up, down = mlp.up_proj, mlp.down_proj
    expected = activation(x @ up.weight.T + up.bias) @ down.weight.T + down.bias
    torch.testing.assert_close(mlp(x), expected)


@pytest.mark.parametrize(("name", "activation"), [("silu", silu), ("gelu", gelu)])
def test_gated_mlp_is_its_formula(name, activation):
    mlp, x = GatedMLP(6, 10, activation=name), torch.randn(2, 3, 6)
    gate, up, down = (layer.weight.T for layer in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))
    torch.testing.assert_close(mlp(x), (activation(x @ gate) * (x @ up)) @ down)


def test_biases_are_as_asked():
    assert not any(name.endswith("bias") for name, _ in MLP(4, 8, bias=False).named_parameters())
    assert sum(name.endswith("bias") for name, _ in GatedMLP(4, 8, bias=True).named_parameters()) == 3
