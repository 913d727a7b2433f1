"""Memory that is set aside at once gives what a growing cache gives."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from archlab.layers.attention import Attention
from archlab.layers.cache import KVCache
from archlab.layers.static_cache import StaticCache

STEP = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 4)),
    st.tuples(st.just("crop"), st.floats(0, 1)),
    st.tuples(st.just("select"), st.lists(st.integers(0, 1), min_size=2, max_size=4)),
    st.tuples(st.just("expand"), st.integers(1, 2)),
)


@given(steps=st.lists(STEP, max_size=8), seed=st.integers(0, 1000))
def test_any_use_equals_that_of_a_growing_cache(steps, seed):
    generator = torch.Generator().manual_seed(seed)
    growing, static = KVCache(), StaticCache(40)
    samples = 2
    for kind, value in steps:
        if kind == "append":
            # Keys and values of other widths, as a cache of latent vectors keeps them.
            keys = torch.randn(samples, 2, value, 4, generator=generator)
            values = torch.randn(samples, 1, value, 3, generator=generator)
            for ours, theirs in zip(static.append(keys, values), growing.append(keys, values), strict=True):
                assert torch.equal(ours, theirs)
        elif kind == "crop":
            length = int(value * growing.length)
            growing.crop(length)
            static.crop(length)
        elif kind == "select":
            growing.select(torch.tensor(value))
            static.select(torch.tensor(value))
            samples = len(value) if growing.length else samples
        elif growing.length:
            growing, static = growing.expand(value), static.expand(value)
            samples *= value
        assert static.length == growing.length
        if growing.length:
            assert all(map(torch.equal, static.read(), growing.read()))
        else:  # a growing cache that was cropped to nothing keeps its samples
            growing, static, samples = KVCache(), StaticCache(40), 2


def test_tokens_are_written_behind_the_last_without_moving_the_others():
    cache, x = StaticCache(8), torch.randn(2, 1, 3, 4)
    keys, _ = cache.append(x, x)
    place = keys.data_ptr()
    longer, _ = cache.append(x[:, :, :1], x[:, :, :1])
    assert (longer.data_ptr(), longer.shape[2]) == (place, 4)


def test_what_was_expanded_leaves_the_original():
    cache, x = StaticCache(8), torch.randn(2, 1, 3, 4)
    cache.append(x, x)
    twice = cache.expand(2)
    twice.append(torch.randn(4, 1, 2, 4), torch.randn(4, 1, 2, 4))
    assert (cache.length, twice.length, StaticCache(3).expand(2).length) == (3, 5, 0)
    assert torch.equal(cache.read()[0], x)


def test_attention_reads_it_as_it_reads_a_growing_one():
    attention, x = Attention(16, 4, key_value_heads=2), torch.randn(3, 7, 16)
    growing, static = KVCache(), StaticCache(7)
    with torch.no_grad():
        for part in x.split([4, 1, 2], 1):
            assert torch.equal(attention(part, cache=static), attention(part, cache=growing))


def test_more_tokens_than_there_is_room_for_are_a_defect_of_the_caller():
    cache, x = StaticCache(4), torch.randn(1, 1, 3, 2)
    cache.append(x, x)
    with pytest.raises(AssertionError, match="cannot keep 6 tokens: there is room for 4"):
        cache.append(x, x)
    with pytest.raises(AssertionError, match="cannot crop 3 tokens to 4"):
        cache.crop(4)
    with pytest.raises(AssertionError, match="nothing"):
        StaticCache(4).read()
