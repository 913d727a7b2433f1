import torch
from hypothesis import given
from hypothesis import strategies as st

from archlab.layers.cache import KVCache
from archlab.layers.causal import causal_context


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


def test_without_padding_positions_follow_the_cache():
    cache = KVCache()
    cache.append(torch.zeros(2, 1, 3, 2), torch.zeros(2, 1, 3, 2))
    at = causal_context(torch.zeros(2, 2), mask=None, cache=[cache], limit=8)
    assert at.positions.tolist() == [[3, 4]]
    assert at.key_positions.tolist() == [[0, 1, 2, 3, 4]]
