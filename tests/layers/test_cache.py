import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from archlab.errors import UserError
from archlab.layers import masks
from archlab.layers.attention import Attention
from archlab.layers.cache import DecoderCache, KVCache, SlidingCache, StaticCache
from archlab.layers.causal import causal_context
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


@given(
    chunks=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    window=st.integers(1, 7),
    left=st.lists(st.integers(0, 4), min_size=3, max_size=3),
    kind=st.sampled_from(["growing", "static", "sliding"]),
    seed=st.integers(0, 1000),
)
def test_any_chunking_of_a_window_equals_the_whole_sequence_at_once(chunks, window, left, kind, seed):
    """A local layer through each cache, with padding on the left, which hides whole chunks of a sample."""
    torch.manual_seed(seed)
    length = sum(chunks)
    attention, rotary = Attention(16, 4, key_value_heads=2), RotaryEmbedding(4)
    x, real = torch.randn(3, length, 16), torch.arange(length)[None] >= torch.tensor(left)[:, None]
    cache = {"growing": KVCache, "static": lambda: StaticCache(length), "sliding": lambda: SlidingCache(window)}[kind]()

    parts = []
    with torch.no_grad():
        whole = local_as_the_paper_says(attention, rotary, x, real, window)
        for size in chunks:
            now = slice(cache.length, cache.length + size)
            at = causal_context(x[:, now, 0], mask=real[:, : now.stop], cache=[cache], limit=length)
            attend, rotation = at.within(window, cache.held), rotary(at.positions)
            parts.append(attention(x[:, now], mask=attend, rotation=rotation, cache=cache))
            assert cache.length == now.stop
            if kind == "sliding":
                assert cache.held <= window
                assert all(
                    kept.untyped_storage().nbytes() <= 4 * 3 * 2 * max(window, size) * 4 for kept in cache.read()
                )
    torch.testing.assert_close(torch.cat(parts, 1)[real], whole[real], rtol=1e-4, atol=1e-5)


def local_as_the_paper_says(attention, rotary, x, real, window):
    """All tokens at once, with a mask of its own: real keys at most `window` - 1 positions back."""
    positions = (real.long().cumsum(1) - 1).clamp(min=0)
    distance = positions[:, :, None] - positions[:, None]
    attend = (distance >= 0) & (distance < window) & real[:, None]
    return attention(x, mask=attend, rotation=rotary(positions))


def test_gradients_pass_through_a_sliding_cache():
    attention, x = Attention(8, 2), torch.randn(1, 7, 8)
    results = []
    for chunks in ([7], [3, 2, 2]):
        given_, cache, out = x.clone().requires_grad_(), SlidingCache(3), []
        for part in given_.split(chunks, 1):
            at = causal_context(part[..., 0], mask=None, cache=[cache], limit=7)
            out.append(attention(part, mask=at.within(3, cache.held), cache=cache))
        torch.cat(out, 1).square().sum().backward()
        results.append(given_.grad)
    torch.testing.assert_close(*results)


def test_a_static_cache_reserves_its_memory_once_and_refuses_more_than_it_has():
    attention, cache = Attention(8, 2), StaticCache(4)
    with torch.no_grad():
        attention(torch.randn(2, 3, 8), cache=cache)
        memory = cache.read()[0].data_ptr()
        attention(torch.randn(2, 1, 8), cache=cache)
        assert cache.read()[0].data_ptr() == memory
        with pytest.raises(UserError, match="cache of 5 tokens: its capacity is 4"):
            attention(torch.randn(2, 1, 8), cache=cache)


def test_a_static_cache_refuses_gradients_that_it_would_lose():
    with pytest.raises(UserError, match="passes no gradients"):
        Attention(8, 2)(torch.randn(2, 3, 8), cache=StaticCache(4))


def test_a_sliding_cache_that_has_forgotten_cannot_go_back():
    cache = SlidingCache(4)
    for _ in range(2):
        cache.append(torch.zeros(1, 1, 3, 2), torch.zeros(1, 1, 3, 2))
    cache.crop(6)
    with pytest.raises(UserError, match="length=5: a sliding cache that has seen 6 tokens and kept 3 cannot go back"):
        cache.crop(5)
    cache.crop(0)
    assert (cache.length, cache.held) == (0, 0)


CACHES = pytest.mark.parametrize(
    "new_cache", [KVCache, lambda: StaticCache(12), lambda: SlidingCache(12)], ids=["growing", "static", "sliding"]
)


@CACHES
@torch.no_grad()
def test_cropping_forgets_the_end(new_cache):
    attention, x = Attention(8, 2), torch.randn(2, 6, 8)
    cache, fresh = new_cache(), new_cache()
    attention(x[:, :3], cache=cache)
    attention(x[:, :3], cache=fresh)
    attention(torch.randn(2, 2, 8), cache=cache)
    cache.crop(3)
    assert cache.length == 3
    torch.testing.assert_close(attention(x[:, 3:], cache=cache), attention(x[:, 3:], cache=fresh))


@CACHES
def test_cropping_to_more_than_there_is_fails(new_cache):
    cache = new_cache()
    cache.crop(0)
    with pytest.raises(AssertionError, match="cannot crop 0 tokens to 1"):
        cache.crop(1)


@CACHES
@torch.no_grad()
def test_expanded_prefix_serves_every_candidate_and_leaves_the_original(new_cache):
    attention, prefix, candidates = Attention(8, 2, key_value_heads=1), torch.randn(2, 4, 8), torch.randn(2, 3, 5, 8)
    cache = new_cache()
    attention(prefix, cache=cache)
    assert new_cache().expand(3).length == 0
    together = attention(candidates.flatten(0, 1), cache=cache.expand(3)).unflatten(0, (2, 3))
    assert cache.length == 4
    for candidate in range(3):
        whole = attention(torch.cat([prefix, candidates[:, candidate]], 1))
        torch.testing.assert_close(together[:, candidate], whole[:, 4:])


def test_reading_an_empty_cache_is_a_defect_of_the_caller():
    with pytest.raises(AssertionError, match="nothing"):
        KVCache().read()


def test_a_decoders_cache_counts_and_crops_its_tokens_and_picks_and_repeats_both_parts():
    cache = DecoderCache()
    tokens, memory = torch.randn(2, 1, 4, 3), torch.randn(2, 1, 5, 3)
    cache.tokens.append(tokens, tokens)
    cache.memory.append(memory, memory)
    assert cache.length == 4
    repeated = cache.expand(2)
    assert torch.equal(repeated.tokens.read()[0], tokens.repeat_interleave(2, 0))
    assert torch.equal(repeated.memory.read()[1], memory.repeat_interleave(2, 0))
    cache.crop(3)
    cache.select(torch.tensor([1, 1, 0]))
    assert torch.equal(cache.tokens.read()[0], tokens[[1, 1, 0], :, :3])
    assert torch.equal(cache.memory.read()[0], memory[[1, 1, 0]])
