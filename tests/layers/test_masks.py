import torch
from hypothesis import given
from hypothesis import strategies as st

from archlab.layers import masks

positions = st.lists(st.integers(0, 9), min_size=1, max_size=7)


@given(st.lists(st.booleans(), min_size=1, max_size=7))
def test_padding_admits_exactly_the_real_keys(real):
    mask = masks.padding(torch.tensor([real]))
    assert mask.shape == (1, 1, 1, len(real))
    assert mask[0, 0, 0].tolist() == real


@given(positions, positions)
def test_causal_compares_absolute_positions(queries, keys):
    mask = masks.causal(torch.tensor([queries]), torch.tensor([keys]))
    assert mask.shape == (1, 1, len(queries), len(keys))
    assert mask[0, 0].tolist() == [[key <= query for key in keys] for query in queries]


@given(positions, positions, st.integers(1, 5))
def test_window_with_causal_admits_the_last_positions_only(queries, keys, window):
    queries_, keys_ = torch.tensor([queries]), torch.tensor([keys])
    mask = masks.combine(masks.causal(queries_, keys_), masks.sliding_window(queries_, keys_, window))
    assert mask[0, 0].tolist() == [[0 <= query - key < window for key in keys] for query in queries]


@given(positions, positions, st.integers(0, 5))
def test_neighbourhood_admits_what_is_near_on_both_sides(queries, keys, reach):
    mask = masks.neighbourhood(torch.tensor([queries]), torch.tensor([keys]), reach)
    assert mask.shape == (1, 1, len(queries), len(keys))
    assert mask[0, 0].tolist() == [[abs(query - key) <= reach for key in keys] for query in queries]


@given(st.integers(0, 5), st.integers(0, 5))
def test_prefix_is_bidirectional_inside_and_causal_after(prefix, answer):
    length = prefix + answer
    is_prefix = torch.arange(length)[None] < prefix
    mask = masks.prefix(is_prefix, torch.arange(length)[None])
    assert mask.shape == (1, 1, length, length)
    for query in range(length):
        for key in range(length):
            assert mask[0, 0, query, key] == (key < prefix or key <= query)


def test_combine_broadcasts_and_needs_every_consent():
    real = torch.tensor([[True, True, False], [True, False, True]])
    order = torch.arange(3)[None]
    mask = masks.combine(masks.padding(real), masks.causal(order, order))
    assert mask.shape == (2, 1, 3, 3)
    assert mask[0, 0].tolist() == [[True, False, False], [True, True, False], [True, True, False]]
    assert mask[1, 0].tolist() == [[True, False, False], [True, False, False], [True, False, True]]


def test_the_mark_of_a_lower_triangle_is_lost_with_any_operation():
    mask = masks.lower_triangle(3)
    for changed in (
        ~mask,
        mask[..., 1:],
        mask.expand(2, 1, 3, 3),
        mask & mask,
        masks.combine(mask, mask),
        mask.clone(),
    ):
        assert type(changed) is torch.Tensor
