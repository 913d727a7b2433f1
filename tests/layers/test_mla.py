"""Latent attention: the equations of the paper, both implementations, the narrow cache."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from archlab.errors import UserError
from archlab.layers import masks
from archlab.layers.attention import set_implementation
from archlab.layers.cache import KVCache, StaticCache
from archlab.layers.mla import LatentAttention
from archlab.layers.positions import RotaryEmbedding, RotaryLayout

WIDTH, HEADS, LATENT, HEAD, ROTARY, VALUE = 16, 3, 7, 5, 4, 6


def made(query_latent=6, scale=None):
    return LatentAttention(
        WIDTH,
        HEADS,
        query_latent=query_latent,
        key_value_latent=LATENT,
        head_width=HEAD,
        rotary_width=ROTARY,
        value_width=VALUE,
        scale=scale,
    )


def naive_attention(attention, x, positions):
    """Equations 1 to 11 of one sample, causal, by loops over heads and tokens."""
    rotary = RotaryEmbedding(ROTARY, layout=RotaryLayout.INTERLEAVED)

    def turned(vector, position):
        return rotary(torch.tensor([[position]]))(vector[None, None, None])[0, 0, 0]

    out = []
    for t in range(len(x)):
        compressed = attention.q_norm(attention.q_down.weight @ x[t])
        queries = (attention.q_proj.weight @ compressed).view(HEADS, HEAD + ROTARY)
        mixed = []
        for head in range(HEADS):
            rows = slice(head * (HEAD + VALUE), (head + 1) * (HEAD + VALUE))
            matrix = attention.kv_proj.weight[rows]
            scores, values = [], []
            for s in range(t + 1):
                both = attention.kv_down.weight @ x[s]
                latent = attention.kv_norm(both[:LATENT])
                key = torch.cat([matrix[:HEAD] @ latent, turned(both[LATENT:], positions[s])])
                query = torch.cat([queries[head, :HEAD], turned(queries[head, HEAD:], positions[t])])
                scores.append(query @ key * attention.scale)
                values.append(matrix[HEAD:] @ latent)
            weights = torch.stack(scores).softmax(0)
            mixed.append(sum(weight * value for weight, value in zip(weights, values, strict=True)))
        out.append(attention.out_proj.weight @ torch.cat(mixed))
    return torch.stack(out)


@pytest.mark.parametrize("implementation", ["fused", "readable"])
@pytest.mark.parametrize("scale", [None, 0.7])
def test_latent_attention_is_what_the_paper_says(implementation, scale):
    torch.manual_seed(0)
    attention, x, positions = made(scale=scale), torch.randn(2, 5, WIDTH), torch.arange(5)[None]
    set_implementation(attention, implementation)
    rotation = RotaryEmbedding(ROTARY, layout=RotaryLayout.INTERLEAVED)(positions)
    out = attention(x, rotation=rotation, mask=masks.causal(positions, positions))
    expected = torch.stack([naive_attention(attention, sample, range(5)) for sample in x])
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-6)


@given(
    seed=st.integers(0, 2**16),
    query_latent=st.sampled_from([0, 6]),
    past=st.integers(0, 4),
    mask_shape=st.sampled_from(["none", "queries", "sample", "head"]),
    share=st.floats(0, 1),
)
def test_fused_equals_readable_in_outputs_and_gradients(seed, query_latent, past, mask_shape, share):
    """With a cache the fused one reads latents as they are."""
    torch.manual_seed(seed)
    fused = made(query_latent)
    readable = copy.deepcopy(fused)
    set_implementation(readable, "readable")
    new, keys = 3, past + 3
    shape = {"none": None, "queries": (new, keys), "sample": (2, new, keys), "head": (1, HEADS, new, keys)}[mask_shape]
    mask = None if shape is None else torch.rand(shape) < share  # a share of 0 masks every row
    rotary = RotaryEmbedding(ROTARY)
    at, before = rotary(torch.randint(0, 50, (2, new))), rotary(torch.randint(0, 50, (2, past)))
    inputs = torch.randn(2, new, WIDTH), torch.randn(2, past, WIDTH)
    upstream = torch.randn(2, new, WIDTH)
    results = []
    for attention in (fused, readable):
        x, earlier = (tensor.clone().requires_grad_() for tensor in inputs)
        cache = None
        if past:
            cache = KVCache()
            attention(earlier, rotation=before, cache=cache)
        out = attention(x, rotation=at, mask=mask, cache=cache)
        out.backward(upstream)
        results.append([out, x.grad, earlier.grad, *(p.grad for p in attention.parameters())])
    for one, other in zip(*results, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@given(
    chunks=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    seed=st.integers(0, 1000),
    implementation=st.sampled_from(["fused", "readable"]),
    static=st.booleans(),
)
@torch.no_grad()
def test_any_chunking_equals_the_whole_sequence_and_keeps_one_narrow_vector_per_token(
    chunks, seed, implementation, static
):
    torch.manual_seed(seed)
    length = sum(chunks)
    attention, rotary = made(), RotaryEmbedding(ROTARY)
    set_implementation(attention, implementation)
    x, real = torch.randn(3, length, WIDTH), torch.rand(3, length) > 0.3  # padding anywhere, whole chunks included
    positions = (real.long().cumsum(1) - 1).clamp(min=0)
    attend = masks.combine(masks.padding(real), masks.causal(positions, positions))
    whole = attention(x, mask=attend, rotation=rotary(positions))

    cache, parts = StaticCache(length) if static else KVCache(), []
    for size in chunks:
        now = slice(cache.length, cache.length + size)
        keys = positions[:, : now.stop]
        mask = masks.combine(masks.padding(real[:, : now.stop]), masks.causal(positions[:, now], keys))
        parts.append(attention(x[:, now], mask=mask, rotation=rotary(positions[:, now]), cache=cache))
        assert cache.length == now.stop
        assert sum(kept.numel() for kept in cache.read()) == len(x) * now.stop * (LATENT + ROTARY)
    torch.testing.assert_close(torch.cat(parts, 1)[real], whole[real], rtol=1e-4, atol=1e-5)


def test_the_cache_is_cropped_and_expanded_like_any_other():
    attention, x, rotary = made(), torch.randn(2, 5, WIDTH), RotaryEmbedding(ROTARY)
    cache, new = KVCache(), rotary(torch.arange(3, 5)[None])
    attention(x[:, :3], rotation=rotary(torch.arange(3)[None]), cache=cache)
    copies = cache.expand(2)
    first = attention(x[:, 3:], rotation=new, cache=cache)
    assert cache.length == 5
    cache.crop(3)
    torch.testing.assert_close(attention(x[:, 3:], rotation=new, cache=cache), first)
    both = attention(x[:, 3:].repeat_interleave(2, 0), rotation=new, cache=copies)
    torch.testing.assert_close(both, first.repeat_interleave(2, 0))


def test_only_the_readable_implementation_gives_weights():
    attention, x = made(), torch.randn(2, 4, WIDTH)
    rotation = RotaryEmbedding(ROTARY)(torch.arange(4)[None])
    with pytest.raises(UserError, match="return_weights=True: fused attention has no weights"):
        attention(x, rotation=rotation, return_weights=True)
    set_implementation(attention, "readable")
    out, weights = attention(x, rotation=rotation, return_weights=True)
    assert out.shape == x.shape
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, HEADS, 4))
