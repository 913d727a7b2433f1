import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from archlab.errors import UserError
from archlab.layers.positions import RotaryEmbedding, RotaryLayout, sinusoidal, sinusoidal_2d
from archlab.models.llama import Llama, LlamaConfig

LAYOUTS = list(RotaryLayout)


@pytest.mark.parametrize("layout", LAYOUTS)
@given(shift=st.integers(-500, 500), seed=st.integers(0, 1000))
def test_products_depend_on_relative_positions_only(layout, shift, seed):
    torch.manual_seed(seed)
    rotary = RotaryEmbedding(8, layout=layout)
    queries, keys = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 5, 8)
    positions = torch.randint(0, 100, (2, 5))
    here, there = rotary(positions), rotary(positions + shift)
    torch.testing.assert_close(
        here(queries) @ here(keys).transpose(-2, -1),
        there(queries) @ there(keys).transpose(-2, -1),
        rtol=1e-3,
        atol=1e-3,
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_pair_is_turned_by_its_own_angle(layout):
    width, position = 6, 3
    x = torch.randn(1, 1, 1, width)
    turned = RotaryEmbedding(width, base=100.0, layout=layout)(torch.tensor([[position]]))(x)[0, 0, 0]
    for pair in range(3):
        first, second = (pair, pair + 3) if layout is RotaryLayout.HALF_SPLIT else (2 * pair, 2 * pair + 1)
        number = torch.complex(x[0, 0, 0, first], x[0, 0, 0, second])
        angle = torch.tensor(position * 100.0 ** (-2 * pair / width))
        expected = number * torch.polar(torch.tensor(1.0), angle)
        torch.testing.assert_close(torch.stack([turned[first], turned[second]]), torch.view_as_real(expected))


def test_half_split_is_the_layout_of_transformers():
    torch.manual_seed(0)
    queries, keys, positions = torch.randn(2, 3, 5, 8), torch.randn(2, 1, 5, 8), torch.randint(0, 99, (2, 5))
    rotation = RotaryEmbedding(8)(positions)
    angles = positions[..., None] * 10000.0 ** (-torch.arange(0, 8, 2) / 8)
    angles = torch.cat([angles, angles], -1)
    expected = apply_rotary_pos_emb(queries, keys, angles.cos(), angles.sin())
    torch.testing.assert_close((rotation(queries), rotation(keys)), expected)


def test_rotation_keeps_the_type_of_its_input():
    rotation = RotaryEmbedding(8)(torch.arange(3)[None])
    assert rotation(torch.randn(1, 1, 3, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_a_llama_in_bfloat16_turns_by_the_angles_of_float32_at_long_contexts():
    model = Llama(LlamaConfig(vocab_size=61, width=256, depth=1, heads=2, key_value_heads=1, feed_forward=64))
    positions = torch.tensor([[8000]])
    exact = model.rotary(positions)
    turned = model.bfloat16().rotary(positions)
    assert model.token_embedding.weight.dtype == torch.bfloat16
    assert torch.equal(turned.cos, exact.cos)
    assert torch.equal(turned.sin, exact.sin)
    frequencies = 500000.0 ** (-torch.arange(0, 128, 2, dtype=torch.float64) / 128)
    torch.testing.assert_close(turned.cos[0, 0, 0, :64], (8000 * frequencies).cos().float(), rtol=0, atol=1e-3)


def test_sinusoidal_table_is_the_papers_up_to_the_order_of_features():
    table = sinusoidal(torch.tensor([0, 7]), 8)
    for i in range(4):
        angle = torch.tensor(7 / 10000 ** (2 * i / 8))
        torch.testing.assert_close(table[1, i], angle.sin())
        torch.testing.assert_close(table[1, 4 + i], angle.cos())
    assert table[0].tolist() == [0.0] * 4 + [1.0] * 4


def test_2d_table_puts_columns_first_then_rows():
    table = sinusoidal_2d(2, 3, 8).unflatten(0, (2, 3))
    rows, columns = sinusoidal(torch.arange(2), 4), sinusoidal(torch.arange(3), 4)
    for row in range(2):
        for column in range(3):
            torch.testing.assert_close(table[row, column], torch.cat([columns[column], rows[row]]))


@pytest.mark.parametrize(
    "make",
    [lambda: RotaryEmbedding(5), lambda: sinusoidal(torch.arange(2), 5), lambda: sinusoidal_2d(2, 2, 6)],
)
def test_odd_widths_are_refused(make):
    with pytest.raises(UserError, match="must be"):
        make()
