"""The stack against `transformers`' LLaMA, and the promises that the arms rely on."""

import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from archlab.config import TransformerConfig
from archlab.layers import masks
from archlab.layers.attention import set_implementation
from archlab.layers.block import TransformerStack
from archlab.layers.cache import KVCache

CONFIG = TransformerConfig(width=32, depth=3, heads=4, feed_forward=48)
TO_LLAMA = {
    "blocks.": "layers.",
    "attention_norm": "input_layernorm",
    "feed_forward_norm": "post_attention_layernorm",
    "attention.out_proj": "self_attn.o_proj",
    "attention.": "self_attn.",
    "feed_forward.": "mlp.",
}


def llama_name(name):
    for ours, theirs in TO_LLAMA.items():
        name = name.replace(ours, theirs)
    return name


@pytest.fixture
def stack():
    torch.manual_seed(0)
    stack = TransformerStack(CONFIG)
    for parameter in stack.parameters():  # the initial values are so small that errors would hide
        torch.nn.init.normal_(parameter, std=0.3)
    return stack


def llama_like(stack):
    config = LlamaConfig(
        vocab_size=5,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=48,
        rms_norm_eps=1e-6,
        attn_implementation="eager",
    )
    llama = LlamaModel(config)
    weights = {llama_name(name): value for name, value in stack.state_dict().items()}
    missing, unexpected = llama.load_state_dict(weights, strict=False)
    assert missing == ["embed_tokens.weight"]
    assert not unexpected
    return llama


def compare_with_llama(stack, llama):
    """Hidden states layer by layer, then gradients; raises an AssertionError at the first difference."""
    x = torch.randn(2, 7, 32)
    positions = torch.stack([torch.arange(7), torch.arange(5, 12)])
    ours, theirs = [], []
    hooks = [block.register_forward_hook(lambda *args: ours.append(args[2])) for block in stack.blocks]
    hooks += [layer.register_forward_hook(lambda *args: theirs.append(args[2])) for layer in llama.layers]
    mine = x.clone().requires_grad_()
    out = stack(mine, masks.causal(positions, positions), positions)
    yours = x.clone().requires_grad_()
    expected = llama(inputs_embeds=yours, position_ids=positions, use_cache=False).last_hidden_state
    for hook in hooks:
        hook.remove()
    assert len(ours) == len(theirs) == 3
    for layer, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, msg=lambda text, at=layer: f"layer {at}: {text}")
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    upstream = torch.randn_like(out)
    out.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(mine.grad, yours.grad, rtol=1e-3, atol=1e-4)
    wanted = {name: parameter.grad for name, parameter in llama.named_parameters()}
    for name, parameter in stack.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[llama_name(name)], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("implementation", ["fused", "readable"])
def test_equals_llama_layer_by_layer_and_in_gradients(stack, implementation):
    set_implementation(stack, implementation)
    compare_with_llama(stack, llama_like(stack))


def test_comparison_with_llama_notices_swapped_queries_and_keys(stack):
    llama = llama_like(stack)
    attention = stack.blocks[1].attention
    attention.q_proj, attention.k_proj = attention.k_proj, attention.q_proj
    with pytest.raises(AssertionError, match="layer 1"):
        compare_with_llama(stack, llama)


def test_a_causal_state_does_not_see_later_tokens(stack):
    x, positions = torch.randn(1, 6, 32), torch.arange(6)[None]
    mask = masks.causal(positions, positions)
    before = stack(x, mask)
    for changed in range(6):
        other = x.clone()
        other[0, changed] += 1
        after = stack(other, mask)
        assert torch.equal(after[0, :changed], before[0, :changed])
        assert ((after[0, changed:] - before[0, changed:]).abs().amax(-1) > 1e-4).all()


@pytest.mark.parametrize(("kind", "reaches"), [("prefix", True), ("causal", False)])
def test_the_query_reaches_the_image_only_in_the_prefix_mask(stack, kind, reaches):
    """Gradient of an early (image) state with respect to a later (query) token."""
    x, positions = torch.randn(1, 6, 32, requires_grad=True), torch.arange(6)[None]
    masks_ = {
        "prefix": masks.prefix(positions < 4, positions),
        "causal": masks.causal(positions, positions),
    }
    stack(x, masks_[kind])[0, 0].sum().backward()
    assert bool((x.grad[0, 1:4] != 0).any()) == reaches
    assert (x.grad[0, 4:] == 0).all()


def test_padding_changes_nothing_for_real_tokens(stack):
    x = torch.randn(2, 5, 32)
    real = torch.tensor([[1, 0, 1, 1, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    positions = (real.long().cumsum(1) - 1).clamp(min=0)
    padded = stack(x, masks.padding(real), positions)
    torch.testing.assert_close(padded[:1, real[0]], stack(x[:1, real[0]]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(padded[1:], stack(x[1:]), rtol=1e-4, atol=1e-5)


def test_cached_decoding_token_by_token_equals_the_whole(stack):
    x, positions = torch.randn(2, 6, 32), torch.arange(6)[None]
    whole = stack(x, masks.causal(positions, positions))
    caches = [KVCache() for _ in range(stack.depth)]
    start = positions[:, :2]
    steps = [stack(x[:, :2], masks.causal(start, start), start, caches=caches)]
    steps += [stack(x[:, t : t + 1], caches=caches) for t in range(2, 6)]  # positions follow those in the caches
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=1e-4, atol=1e-5)


def test_a_wrong_number_of_caches_is_refused(stack):
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        stack(torch.randn(1, 2, 32), caches=[KVCache()])


def test_same_seed_gives_the_same_stack_and_copies_agree():
    stacks = []
    for _ in range(2):
        torch.manual_seed(3)
        stacks.append(TransformerStack(CONFIG))
    x = torch.randn(2, 4, 32)
    assert torch.equal(stacks[0](x), stacks[1](x))
    loaded = copy.deepcopy(stacks[0])
    torch.nn.init.zeros_(loaded.norm.weight)
    loaded.load_state_dict(stacks[1].state_dict(), strict=True)
    assert torch.equal(loaded(x), stacks[0](x))


def test_bfloat16_training_step_is_finite(stack):
    x, positions = torch.randn(2, 4, 32, requires_grad=True), torch.arange(4)[None]
    mask = masks.combine(masks.causal(positions, positions), torch.rand(2, 1, 4, 4) > 0.5)
    with torch.autocast("cpu", torch.bfloat16):
        out = stack(x, mask)
    out.float().square().sum().backward()
    assert out.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in stack.parameters())
