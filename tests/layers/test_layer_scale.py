import torch
from torch import nn

from archlab.layers.attention import Attention
from archlab.layers.block import Block
from archlab.layers.feedforward import MLP
from archlab.layers.layer_scale import ScaledBlock


def parts():
    torch.manual_seed(0)
    return nn.LayerNorm(8), Attention(8, 2), nn.LayerNorm(8), MLP(8, 12)


def test_gains_of_one_change_nothing_and_gains_of_zero_leave_the_stream_as_it_is():
    x = torch.randn(2, 5, 8)
    scaled = ScaledBlock(*parts(), width=8)
    assert torch.equal(scaled(x), Block(*parts())(x))
    nn.init.zeros_(scaled.attention_scale.gain)
    nn.init.zeros_(scaled.feed_forward_scale.gain)
    assert torch.equal(scaled(x), x)


def test_each_gain_scales_its_own_part():
    x = torch.randn(2, 5, 8)
    scaled, plain = ScaledBlock(*parts(), width=8), Block(*parts())
    nn.init.constant_(scaled.attention_scale.gain, 3.0)
    after = x + 3 * plain.attention(plain.attention_norm(x))
    torch.testing.assert_close(scaled(x), after + plain.feed_forward(plain.feed_forward_norm(after)))
