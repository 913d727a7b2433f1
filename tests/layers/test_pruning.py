"""Heads and channels that are taken out are gone, and what is left computes what masking them would."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from archlab.config import TransformerConfig
from archlab.errors import UserError
from archlab.layers.attention import Attention
from archlab.layers.block import TransformerStack
from archlab.layers.feedforward import GatedMLP
from archlab.layers.pruning import keep_channels, keep_heads, narrow

WIDTH, HEADS = 16, 4


def silenced(layer: nn.Linear, keep: Tensor, size: int) -> object:
    """Let the layer read zeros in place of what is not kept; `size` neighbours make a unit."""
    gate = torch.zeros(layer.in_features // size, size)
    gate[keep] = 1
    return layer.register_forward_pre_hook(lambda _, given: (given[0] * gate.flatten(),))


@pytest.mark.parametrize("key_value_heads", [4, 2])
def test_an_attention_without_some_heads_is_one_in_which_they_are_silent(key_value_heads: int) -> None:
    """Of grouped heads, a group is kept or goes."""
    torch.manual_seed(0)
    attention = Attention(WIDTH, HEADS, key_value_heads=key_value_heads, bias=True)
    keep, x = torch.tensor([1]), torch.randn(2, 5, WIDTH)
    share = WIDTH // key_value_heads
    hook = silenced(attention.out_proj, keep, share)
    expected = attention(x)
    hook.remove()  # type: ignore[attr-defined]
    other = silenced(attention.out_proj, torch.tensor([0]), share)
    of_others = attention(x)
    other.remove()  # type: ignore[attr-defined]
    keep_heads(attention, keep)
    assert attention.key_value_heads == 1
    assert attention.q_proj.out_features == attention.out_proj.in_features == share
    torch.testing.assert_close(attention(x), expected)
    assert not torch.allclose(attention(x), of_others, atol=1e-3)


def test_a_feed_forward_layer_without_some_channels_is_one_in_which_they_are_silent() -> None:
    torch.manual_seed(0)
    layer, keep, x = GatedMLP(WIDTH, 8), torch.tensor([6, 1, 3]).sort().values, torch.randn(2, 5, WIDTH)
    hook = silenced(layer.down_proj, keep, 1)
    expected = layer(x)
    hook.remove()  # type: ignore[attr-defined]
    whole = layer(x)
    keep_channels(layer, keep)
    assert layer.gate_proj.weight.shape == layer.up_proj.weight.shape == (3, WIDTH)
    torch.testing.assert_close(layer(x), expected)
    assert not torch.allclose(layer(x), whole, atol=1e-3)


def test_a_narrowed_stack_has_the_shape_that_is_asked_for_and_draws_nothing() -> None:
    stack = TransformerStack(TransformerConfig(width=WIDTH, depth=2, heads=HEADS, feed_forward=8))
    state = torch.get_rng_state()
    narrow(stack, 0, 0)
    assert [layer.out_features for layer in stack.modules() if isinstance(layer, nn.Linear)].count(8) == 4
    narrow(stack, 3, 5)
    assert torch.equal(torch.get_rng_state(), state)
    for block in stack.blocks:
        assert block.attention.key_value_heads == 3
        assert block.feed_forward.down_proj.in_features == 5
    assert stack(torch.randn(2, 3, WIDTH)).shape == (2, 3, WIDTH)


@pytest.mark.parametrize(("heads", "channels", "name"), [(5, 8, "heads=5"), (4, 9, "feed_forward=9")])
def test_more_than_there_are_cannot_be_kept(heads: int, channels: int, name: str) -> None:
    stack = TransformerStack(TransformerConfig(width=WIDTH, depth=1, heads=HEADS, feed_forward=8))
    with pytest.raises(UserError, match=f"{name}: a block of the trunk has"):
        narrow(stack, heads, channels)
