import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from archlab.layers.cache import KVCache
from archlab.layers.causal import causal_context
from archlab.layers.masks import LowerTriangle


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.integers(0, 7))
def test_a_token_sees_the_real_tokens_up_to_itself_wherever_the_padding_is(real, cached):
    cached = min(cached, len(real) - 1)
    cache = KVCache()
    if cached:
        cache.append(torch.zeros(1, 1, cached, 2), torch.zeros(1, 1, cached, 2))
    at = causal_context(torch.zeros(1, len(real) - cached), mask=torch.tensor([real]), cache=[cache], limit=8)
    for query in range(cached, len(real)):
        if real[query]:
            assert at.positions[0, query - cached] == sum(real[:query])
            seen = [key for key, sees in enumerate(at.mask[0, 0, query - cached].tolist()) if sees]
            assert seen == [key for key in range(query + 1) if real[key]]


def test_one_new_token_without_padding_sees_everything_and_needs_no_mask():
    cache = KVCache()
    cache.append(torch.zeros(2, 1, 3, 2), torch.zeros(2, 1, 3, 2))
    one, two = torch.zeros(2, 1), torch.zeros(2, 2)
    assert causal_context(one, mask=None, cache=[cache], limit=8).mask is None
    assert causal_context(two, mask=None, cache=[cache], limit=8).mask is not None
    assert causal_context(one, mask=torch.ones(2, 4, dtype=torch.bool), cache=[cache], limit=8).mask is not None


@pytest.mark.parametrize(("window", "seen"), [(5, None), (4, None), (3, [2, 3]), (1, [])])
def test_within_a_window_one_new_token_needs_a_mask_where_more_is_kept_than_it_sees(window, seen):
    cache = KVCache()
    cache.append(torch.zeros(2, 1, 3, 2), torch.zeros(2, 1, 3, 2))
    mask = causal_context(torch.zeros(2, 1), mask=None, cache=[cache], limit=8).within(window, cache.held)
    if seen is None:
        assert mask is None
    else:
        assert [key for key, sees in enumerate(mask[0, 0, 0].tolist(), 1) if sees] == [*seen, 4]


def test_without_padding_positions_follow_the_cache():
    cache = KVCache()
    cache.append(torch.zeros(2, 1, 3, 2), torch.zeros(2, 1, 3, 2))
    at = causal_context(torch.zeros(2, 2), mask=None, cache=[cache], limit=8)
    assert at.positions.tolist() == [[3, 4]]
    assert at.key_positions.tolist() == [[0, 1, 2, 3, 4]]


def test_the_mask_is_marked_only_where_there_is_neither_padding_nor_a_cache():
    cache = KVCache()
    cache.append(torch.zeros(2, 1, 3, 2), torch.zeros(2, 1, 3, 2))
    tokens = torch.zeros(2, 4)
    marked = causal_context(tokens, mask=None, cache=None, limit=8).mask
    assert isinstance(marked, LowerTriangle)
    assert marked[0, 0].tolist() == torch.ones(4, 4).tril().bool().tolist()
    assert not isinstance(causal_context(tokens, mask=None, cache=[cache], limit=8).mask, LowerTriangle)
    real = torch.ones(2, 4, dtype=torch.bool)
    assert not isinstance(causal_context(tokens, mask=real, cache=None, limit=8).mask, LowerTriangle)
    assert not isinstance(causal_context(tokens, mask=None, cache=None, limit=8).within(2, 0), LowerTriangle)
