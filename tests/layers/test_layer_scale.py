import torch
from torch import nn

from archlab.layers.attention import Attention
from archlab.layers.block import Block, SandwichBlock
from archlab.layers.feedforward import MLP
from archlab.layers.layer_scale import LayerScale


def parts():
    torch.manual_seed(0)
    return nn.LayerNorm(8), Attention(8, 2), nn.LayerNorm(8), MLP(8, 12)


def scaled_block():
    attention_norm, attention, feed_forward_norm, feed_forward = parts()
    return SandwichBlock(attention_norm, attention, LayerScale(8), feed_forward_norm, feed_forward, LayerScale(8))


def test_gains_of_one_change_nothing_and_gains_of_zero_leave_the_stream_as_it_is():
    x = torch.randn(2, 5, 8)
    scaled = scaled_block()
    assert torch.equal(scaled(x), Block(*parts())(x))
    nn.init.zeros_(scaled.after_attention.gain)
    nn.init.zeros_(scaled.after_feed_forward.gain)
    assert torch.equal(scaled(x), x)


def test_each_gain_scales_its_own_part():
    x = torch.randn(2, 5, 8)
    scaled, plain = scaled_block(), Block(*parts())
    nn.init.constant_(scaled.after_attention.gain, 3.0)
    after = x + 3 * plain.attention(plain.attention_norm(x))
    torch.testing.assert_close(scaled(x), after + plain.feed_forward(plain.feed_forward_norm(after)))
