import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from archlab.errors import UserError
from archlab.layers import masks
from archlab.layers.attention import Attention, set_implementation
from archlab.layers.cache import KVCache
from archlab.layers.norms import RMSNorm
from archlab.layers.positions import RotaryEmbedding

WIDTH, HEADS = 24, 6
IMPLEMENTATIONS = ["fused", "readable"]


def naive_attention(attention, x, memory, mask, bias=None):
    """Attention of one sample by loops over heads and queries; mask and bias (H, Tq, Tk)."""
    width, group = attention.head_width, attention.group
    queries, keys, values = attention.q_proj(x), attention.k_proj(memory), attention.v_proj(memory)
    rows = []
    for t in range(len(x)):
        mixed = []
        for head in range(HEADS):
            own, shared = slice(head * width, (head + 1) * width), head // group
            served = slice(shared * width, (shared + 1) * width)
            allowed = mask[head, t].nonzero()[:, 0]
            if len(allowed) == 0:
                mixed.append(torch.zeros(width))
                continue
            scores = torch.stack([queries[t, own] @ keys[k, served] for k in allowed])
            scores = scores * (width**-0.5 if attention.scale is None else attention.scale)
            if bias is not None:
                scores = scores + bias[head, t, allowed]
            weights = scores.exp() / scores.exp().sum()
            mixed.append(sum(weight * values[k, served] for weight, k in zip(weights, allowed, strict=True)))
        rows.append(torch.cat(mixed))
    return attention.out_proj(torch.stack(rows))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("key_value_heads", [6, 2, 1])
@pytest.mark.parametrize("cross", [False, True])
def test_attention_is_what_the_paper_says(implementation, key_value_heads, cross):
    torch.manual_seed(0)
    attention = Attention(WIDTH, HEADS, key_value_heads=key_value_heads, bias=True, implementation=implementation)
    x, memory = torch.randn(2, 5, WIDTH), torch.randn(2, 4, WIDTH)
    source = memory if cross else x
    mask = torch.rand(2, HEADS, 5, source.shape[1]) > 0.4
    out = attention(x, memory=memory if cross else None, mask=mask)
    expected = torch.stack([naive_attention(attention, x[b], source[b], mask[b]) for b in range(2)])
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_scores_are_scaled_and_biased_as_asked_and_heads_have_their_own_width(implementation):
    torch.manual_seed(0)
    attention = Attention(WIDTH, HEADS, key_value_heads=3, head_width=5, scale=0.7, implementation=implementation)
    x, bias = torch.randn(2, 5, WIDTH), torch.randn(2, HEADS, 5, 5)
    mask = torch.rand(2, HEADS, 5, 5) > 0.4
    for allowed in (None, mask):
        out = attention(x, mask=allowed, bias=bias)
        seen = torch.ones_like(mask) if allowed is None else mask
        expected = torch.stack([naive_attention(attention, x[b], x[b], seen[b], bias[b]) for b in range(2)])
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)


@given(
    seed=st.integers(0, 2**16),
    bias_shape=st.sampled_from([None, (3, 6), (1, 6), (1, 1)]),
    key_value_heads=st.sampled_from([6, 3, 1]),
    head_width=st.sampled_from([None, 6]),
    normed=st.booleans(),
    scale=st.sampled_from([None, 0.7]),
    cross=st.booleans(),
    rotary=st.booleans(),
    past=st.integers(0, 4),
    mask_shape=st.sampled_from(["none", "keys", "queries", "sample", "head"]),
    share=st.floats(0, 1),
)
def test_fused_equals_readable_in_outputs_and_gradients(
    seed, bias_shape, key_value_heads, head_width, normed, scale, cross, rotary, past, mask_shape, share
):
    torch.manual_seed(seed)
    width = head_width or WIDTH // HEADS
    fused = Attention(
        WIDTH,
        HEADS,
        key_value_heads=key_value_heads,
        head_width=head_width,
        query_norm=RMSNorm(width) if normed else None,
        key_norm=RMSNorm(width) if normed else None,
        scale=scale,
        bias=True,
    )
    readable = copy.deepcopy(fused)
    set_implementation(readable, "readable")
    samples, queries = 3, 5
    keys = 4 if cross else past + queries
    shape = {
        "none": None,
        "keys": (samples, 1, 1, keys),
        "queries": (queries, keys),
        "sample": (samples, queries, keys),
        "head": (1, HEADS, queries, keys),
    }[mask_shape]
    mask = None if shape is None else torch.rand(shape) < share  # a share of 0 masks every row
    rotation = RotaryEmbedding(width)(torch.randint(0, 50, (samples, queries))) if rotary and not cross else None
    inputs = torch.randn(samples, queries, WIDTH), torch.randn(samples, 4, WIDTH), torch.randn(samples, past, WIDTH)
    upstream = torch.randn(samples, queries, WIDTH)
    added = None if bias_shape is None else torch.randn(*bias_shape, queries, keys)

    results = []
    for attention in (fused, readable):
        bias = None if added is None else added.clone().requires_grad_()
        x, memory, before = (tensor.clone().requires_grad_() for tensor in inputs)
        cache = None
        if past and not cross:
            cache = KVCache()
            attention(before, cache=cache)
        out = attention(x, memory=memory if cross else None, mask=mask, bias=bias, rotation=rotation, cache=cache)
        out.backward(upstream)
        learned = None if bias is None else bias.grad
        results.append([out, x.grad, memory.grad, before.grad, learned, *(p.grad for p in attention.parameters())])
    for one, other in zip(*results, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_heads_of_any_width_are_normed_scaled_and_turned_in_this_order(implementation):
    torch.manual_seed(0)
    attention = Attention(
        10, 3, head_width=4, query_norm=RMSNorm(4), key_norm=RMSNorm(4), scale=0.3, implementation=implementation
    )
    for norm in (attention.query_norm, attention.key_norm):
        torch.nn.init.normal_(norm.weight)
    x, rotation = torch.randn(2, 5, 10), RotaryEmbedding(4)(torch.arange(5)[None])
    split = [layer(x).view(2, 5, 3, 4).transpose(1, 2) for layer in (attention.q_proj, attention.k_proj)]
    queries, keys = rotation(attention.query_norm(split[0])), rotation(attention.key_norm(split[1]))
    weights = (0.3 * queries @ keys.transpose(2, 3)).softmax(-1)
    mixed = weights @ attention.v_proj(x).view(2, 5, 3, 4).transpose(1, 2)
    expected = attention.out_proj(mixed.transpose(1, 2).reshape(2, 5, 12))
    torch.testing.assert_close(attention(x, rotation=rotation), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bias", [None, torch.randn(HEADS, 5, 5)], ids=["plain", "biased"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_query_that_may_attend_nowhere_gives_zeros_and_finite_gradients(implementation, bias):
    torch.manual_seed(0)
    attention = Attention(WIDTH, HEADS, implementation=implementation)
    x = torch.randn(2, 5, WIDTH, requires_grad=True)
    mask = torch.ones(2, 5, 5, dtype=torch.bool)
    mask[0, 3] = False
    mask[1] = False
    out = attention(x, mask=mask, bias=bias)
    assert (out[0, 3] == 0).all()
    assert (out[1] == 0).all()
    assert (out[0, 2] != 0).any()
    out.square().sum().backward()
    assert x.grad.isfinite().all()
    assert (x.grad[1] == 0).all()
    assert all(parameter.grad.isfinite().all() for parameter in attention.parameters())


@pytest.mark.parametrize("tokens", [1, 2, 7, 64])
@pytest.mark.parametrize("key_value_heads", [6, 2])
def test_a_marked_mask_gives_what_its_entries_say_without_reading_them(tokens, key_value_heads, monkeypatch):
    torch.manual_seed(0)
    layer, x = Attention(WIDTH, HEADS, key_value_heads=key_value_heads), torch.randn(3, tokens, WIDTH)
    marked, upstream = masks.lower_triangle(tokens), torch.randn(3, tokens, WIDTH)
    given = []
    called = torch.nn.functional.scaled_dot_product_attention

    def spy(*tensors, **how):
        given.append((tensors[3], how["is_causal"]))
        return called(*tensors, **how)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    results = []
    for mask in (marked, marked.as_subclass(torch.Tensor)):
        layer.zero_grad()
        out = layer(x, mask=mask)
        out.backward(upstream)
        results.append([out, *(parameter.grad.clone() for parameter in layer.parameters())])
    assert given[0] == (None, True)
    assert given[1][1] is False
    torch.testing.assert_close(*results)
    everywhere = layer(x)
    assert torch.equal(everywhere, out) == (tokens == 1)  # the negative control: without a mask it is another layer


def test_readable_weights_are_distributions_over_the_allowed_keys():
    torch.manual_seed(0)
    attention = Attention(WIDTH, HEADS, key_value_heads=2, implementation="readable")
    mask = torch.rand(2, 5, 5) > 0.5
    mask[:, :, 0] = True
    x = torch.randn(2, 5, WIDTH)
    out, weights = attention(x, mask=mask, return_weights=True)
    assert weights.shape == (2, HEADS, 5, 5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, HEADS, 5))
    assert (weights.masked_select(~mask[:, None].expand_as(weights)) == 0).all()
    torch.testing.assert_close(out, attention(x, mask=mask))


def test_fused_attention_refuses_to_invent_weights():
    attention = Attention(WIDTH, HEADS)
    with pytest.raises(UserError, match="readable"):
        attention(torch.randn(1, 2, WIDTH), return_weights=True)
    set_implementation(torch.nn.Sequential(attention), "readable")
    assert attention(torch.randn(1, 2, WIDTH), return_weights=True)[1].shape == (1, HEADS, 2, 2)


def test_memory_is_projected_once_and_reused_from_its_cache():
    torch.manual_seed(0)
    attention = Attention(WIDTH, HEADS, key_value_heads=3)
    x, memory = torch.randn(2, 5, WIDTH), torch.randn(2, 7, WIDTH)
    mask = torch.rand(2, 1, 1, 7) > 0.3
    calls = []
    attention.k_proj.register_forward_hook(lambda *_: calls.append(1))
    cache = KVCache()
    steps = [attention(x[:, t : t + 1], memory=memory, mask=mask, cache=cache) for t in range(5)]
    assert len(calls) == 1
    assert cache.length == 7
    torch.testing.assert_close(torch.cat(steps, 1), attention(x, memory=memory, mask=mask))


@pytest.mark.parametrize(
    ("width", "heads", "key_value_heads", "named"), [(10, 3, None, "heads=3"), (12, 4, 3, "key_value_heads=3")]
)
def test_sizes_that_do_not_divide_are_named(width, heads, key_value_heads, named):
    with pytest.raises(UserError, match=named):
        Attention(width, heads, key_value_heads=key_value_heads)


def test_rotary_positions_are_refused_in_cross_attention():
    rotation = RotaryEmbedding(WIDTH // HEADS)(torch.arange(2)[None])
    with pytest.raises(UserError, match="rotation"):
        Attention(WIDTH, HEADS)(torch.randn(1, 2, WIDTH), memory=torch.randn(1, 3, WIDTH), rotation=rotation)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_bfloat16_autocast_stays_close_to_float32(implementation):
    torch.manual_seed(0)
    attention = Attention(WIDTH, HEADS, implementation=implementation)
    x = torch.randn(2, 5, WIDTH, requires_grad=True)
    mask = torch.rand(2, 5, 5) > 0.5
    rotation = RotaryEmbedding(WIDTH // HEADS)(torch.arange(5)[None])
    exact = attention(x, mask=mask, rotation=rotation)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = attention(x, mask=mask, rotation=rotation)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, rtol=0.05, atol=0.02)
    rounded.float().square().sum().backward()
    assert x.grad.isfinite().all()
