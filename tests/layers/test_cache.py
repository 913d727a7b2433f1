import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from archlab.layers import masks
from archlab.layers.attention import Attention
from archlab.layers.cache import KVCache
from archlab.layers.positions import RotaryEmbedding


@given(
    chunks=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    key_value_heads=st.sampled_from([4, 2, 1]),
    seed=st.integers(0, 1000),
)
def test_any_chunking_equals_the_whole_sequence_at_once(chunks, key_value_heads, seed):
    torch.manual_seed(seed)
    length = sum(chunks)
    attention, rotary = Attention(16, 4, key_value_heads=key_value_heads), RotaryEmbedding(4)
    x, real = torch.randn(3, length, 16), torch.rand(3, length) > 0.3  # padding anywhere, whole chunks included
    positions = (real.long().cumsum(1) - 1).clamp(min=0)
    attend = masks.combine(masks.padding(real), masks.causal(positions, positions))
    whole = attention(x, mask=attend, rotation=rotary(positions))

    cache, parts = KVCache(), []
    for size in chunks:
        now = slice(cache.length, cache.length + size)
        keys = positions[:, : now.stop]
        mask = masks.combine(masks.padding(real[:, : now.stop]), masks.causal(positions[:, now], keys))
        parts.append(attention(x[:, now], mask=mask, rotation=rotary(positions[:, now]), cache=cache))
        assert cache.length == now.stop
    torch.testing.assert_close(torch.cat(parts, 1)[real], whole[real], rtol=1e-4, atol=1e-5)


def test_cropping_forgets_the_end():
    attention, x = Attention(8, 2), torch.randn(2, 6, 8)
    cache, fresh = KVCache(), KVCache()
    attention(x[:, :3], cache=cache)
    attention(x[:, :3], cache=fresh)
    attention(torch.randn(2, 2, 8), cache=cache)
    cache.crop(3)
    assert cache.length == 3
    torch.testing.assert_close(attention(x[:, 3:], cache=cache), attention(x[:, 3:], cache=fresh))


def test_cropping_to_more_than_there_is_fails():
    cache = KVCache()
    cache.crop(0)
    with pytest.raises(AssertionError, match="cannot crop 0 tokens to 1"):
        cache.crop(1)


def test_expanded_prefix_serves_every_candidate_and_leaves_the_original():
    attention, prefix, candidates = Attention(8, 2, key_value_heads=1), torch.randn(2, 4, 8), torch.randn(2, 3, 5, 8)
    cache = KVCache()
    attention(prefix, cache=cache)
    assert KVCache().expand(3).length == 0
    together = attention(candidates.flatten(0, 1), cache=cache.expand(3)).unflatten(0, (2, 3))
    assert cache.length == 4
    for candidate in range(3):
        whole = attention(torch.cat([prefix, candidates[:, candidate]], 1))
        torch.testing.assert_close(together[:, candidate], whole[:, 4:])


def test_reading_an_empty_cache_is_a_defect_of_the_caller():
    with pytest.raises(AssertionError, match="nothing"):
        KVCache().read()
