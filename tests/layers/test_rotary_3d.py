import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from archlab.errors import UserError
from archlab.layers.rotary_3d import Rotary3D

GRID = (3, 5)
PLACES = st.tuples(st.integers(0, 4), st.integers(0, 2), st.integers(0, 4))


def index(frame, row, column):
    return torch.tensor([[(frame * 3 + row) * 5 + column]])


def turned(rotary, place, seed):
    vector = torch.randn(1, 1, 1, rotary.head_width, generator=torch.Generator().manual_seed(seed))
    return rotary(index(*place))(vector)


def test_released_models_tile_the_frequencies_over_pairs_of_neighbours():
    """Feature j of an axis: x_j cos(p f) -+ its partner sin(p f), where f is frequency j mod S / 2."""
    rotary = Rotary3D(26, GRID)  # S = 8, and two features stay
    x = torch.randn(1, 1, 1, 26)
    found = rotary(index(2, 1, 4))(x).flatten()
    x = x.flatten()
    for axis, place in enumerate((2, 1, 4)):
        for j in range(8):
            angle = torch.tensor(place * 10000.0 ** (-(j % 4) / 4))
            own, partner = x[8 * axis + j], x[8 * axis + (j ^ 1)]
            expected = own * angle.cos() + (partner if j % 2 else -partner) * angle.sin()
            torch.testing.assert_close(found[8 * axis + j], expected)
    assert torch.equal(found[24:], x[24:])


@settings(max_examples=15)
@given(PLACES, PLACES, st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))
def test_untiled_products_depend_on_relative_positions_only(one, other, frames, rows, columns):
    rotary = Rotary3D(26, (8, 16), tiled=False)

    def product(shift):
        def moved(place):
            frame, row, column = (axis + more for axis, more in zip(place, shift, strict=True))
            return torch.tensor([[(frame * 8 + row) * 16 + column]])

        query, key = (torch.randn(1, 1, 1, 26, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
        return (rotary(moved(one))(query) * rotary(moved(other))(key)).sum()

    torch.testing.assert_close(product((frames, rows, columns)), product((0, 0, 0)), rtol=1e-4, atol=1e-4)


def test_tiled_products_do_not():
    rotary = Rotary3D(26, GRID)
    here = (turned(rotary, (0, 0, 0), 0) * turned(rotary, (1, 0, 0), 1)).sum()
    there = (turned(rotary, (3, 0, 0), 0) * turned(rotary, (4, 0, 0), 1)).sum()
    assert (here - there).abs() > 0.01


def test_half_precision_does_not_round_the_angles():
    expected, found = Rotary3D(26, GRID)(index(4, 2, 4)), Rotary3D(26, GRID).to(torch.bfloat16)(index(4, 2, 4))
    assert torch.equal(found.cos, expected.cos)
    assert torch.equal(found.sin, expected.sin)


def test_a_head_too_narrow_for_three_axes_is_refused():
    with pytest.raises(UserError, match="head_width=4: must be at least 6"):
        Rotary3D(4, GRID)
