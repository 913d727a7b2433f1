import torch
from torch import nn

from archlab.layers.feedforward import MLP
from archlab.layers.initialization import initialize
from archlab.layers.norms import RMSNorm
from archlab.models.vit import ViT, ViTConfig


def test_matrices_are_small_and_residual_outputs_smaller_with_depth():
    torch.manual_seed(0)
    model = ViT(ViTConfig())
    for name, parameter in model.named_parameters():
        if parameter.numel() < 5000:
            continue
        residual = "out_proj" in name or "down_proj" in name
        expected = 0.02 / 12**0.5 if residual else 0.02
        assert abs(parameter.std().item() / expected - 1) < 0.05, name
        assert abs(parameter.mean().item()) < 0.05 * expected, name


def test_biases_start_at_zero_and_gains_at_one():
    model = nn.Sequential(nn.LayerNorm(4), MLP(4, 8), RMSNorm(4), RMSNorm(4, unit_offset=True))
    for parameter in model.parameters():
        nn.init.constant_(parameter, 7.0)
    initialize(model, depth=1)
    assert (model[0].weight == 1).all()
    assert (model[2].weight == 1).all()
    assert (model[3].weight == 0).all()  # to which it adds one
    for bias in (model[0].bias, model[1].up_proj.bias, model[1].down_proj.bias):
        assert (bias == 0).all()
