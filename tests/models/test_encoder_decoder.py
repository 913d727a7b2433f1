"""The first Transformer against PyTorch's own, with norms in either place, and what encoder-decoders refuse."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from archlab.errors import UserError
from archlab.interop.parity.twin import randomise
from archlab.layers.attention import set_implementation
from archlab.models.encoder_decoder import EncoderDecoderConfig, EncoderDecoderTransformer
from archlab.models.registry import FAMILIES

pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor")  # PyTorch's layers take their plain path
CONFIG = EncoderDecoderConfig(
    vocab_size=61, context=32, width=24, depth=3, decoder_depth=2, heads=3, feed_forward=40, norm_eps=1e-4
)
NORMS = pytest.mark.parametrize("pre_norm", [False, True], ids=["post-norm", "pre-norm"])
PARTS = {
    "attention": "self_attn",
    "cross_attention": "multihead_attn",
    "feed_forward.up_proj": "linear1",
    "feed_forward.down_proj": "linear2",
}
# PyTorch numbers the norms in the order of use.
NORM_NAMES = {
    "encoder": {"attention_norm": "norm1", "feed_forward_norm": "norm2"},
    "decoder": {"attention_norm": "norm1", "cross_attention_norm": "norm2", "feed_forward_norm": "norm3"},
}


def pair(pre_norm):
    """Ours, and PyTorch's with the same random weights; where ours has no norm after a stack, neither has it."""
    config = dataclasses.replace(CONFIG, pre_norm=pre_norm)
    ours = EncoderDecoderTransformer(config)
    randomise(ours, torch.Generator().manual_seed(0))
    theirs = torch.nn.Transformer(
        config.width,
        config.heads,
        config.depth,
        config.decoder_depth,
        config.feed_forward,
        dropout=0.0,
        layer_norm_eps=config.norm_eps,
        batch_first=True,
        norm_first=pre_norm,
    )
    if not pre_norm:
        theirs.encoder.norm = theirs.decoder.norm = None
    theirs.load_state_dict(theirs_of(ours, ours.state_dict()), strict=True)
    return ours, theirs


def theirs_of(ours, tensors):
    """PyTorch's tensors (weights or gradients) of ours, but for the token table, which it has not."""
    found = {}
    for stack, norms in NORM_NAMES.items():
        for layer, block in enumerate(getattr(ours, f"{stack}_blocks")):
            here, there = f"{stack}_blocks.{layer}", f"{stack}.layers.{layer}"
            for name in ("weight", "bias"):
                for part, other in norms.items() | PARTS.items():
                    if "attention" in part and "norm" not in part:
                        if not hasattr(block, part):
                            continue
                        fused = [tensors[f"{here}.{part}.{kind}_proj.{name}"] for kind in "qkv"]
                        found[f"{there}.{other}.in_proj_{name}"] = torch.cat(fused)
                        found[f"{there}.{other}.out_proj.{name}"] = tensors[f"{here}.{part}.out_proj.{name}"]
                    else:
                        found[f"{there}.{other}.{name}"] = tensors[f"{here}.{part}.{name}"]
        if ours.config.pre_norm:
            found |= {f"{stack}.norm.{name}": tensors[f"{stack}_norm.{name}"] for name in ("weight", "bias")}
    return found


def recorded(layers, call):
    """The output of every layer, and of the call."""
    kept = []
    hooks = [layer.register_forward_hook(lambda *args: kept.append(args[2])) for layer in layers]
    kept.append(call())
    for hook in hooks:
        hook.remove()
    return kept


def compare(ours, theirs):
    """States layer by layer, logits, and gradients of every parameter, with padding."""
    source, target = torch.randint(61, (2, 7)), torch.randint(61, (2, 5))
    real = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
    table = ours.token_embedding.weight.detach().clone().requires_grad_()

    def embedded(tokens):
        position, i = torch.arange(tokens.shape[1])[:, None], torch.arange(12)
        angles = position / 10000 ** (2 * i / 24)
        return table[tokens] * 24**0.5 + torch.cat([angles.sin(), angles.cos()], 1)

    def reference():
        later = torch.ones(5, 5).triu(1).bool()
        padding = {"src_key_padding_mask": ~real, "memory_key_padding_mask": ~real}
        return theirs(embedded(source), embedded(target), tgt_mask=later, **padding) @ table.T

    mine = recorded([*ours.encoder_blocks, *ours.decoder_blocks], lambda: ours(source, target, source_mask=real))
    yours = recorded([*theirs.encoder.layers, *theirs.decoder.layers], reference)
    assert len(mine) == len(yours) == 6
    for place, (one, other) in enumerate(zip(mine, yours, strict=True)):
        one, other = (state[real] if place < 3 else state for state in (one, other))
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5, msg=lambda text, at=place: f"layer {at}: {text}")
    upstream = torch.randn(mine[-1].shape)
    mine[-1].backward(upstream)
    yours[-1].backward(upstream)
    torch.testing.assert_close(ours.token_embedding.weight.grad, table.grad, rtol=1e-4, atol=1e-4)
    gradients = theirs_of(ours, {name: parameter.grad for name, parameter in ours.named_parameters()})
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", ["base", "big"])
def test_a_published_size_has_as_many_parameters_as_pytorchs(size):
    config = FAMILIES["encoder_decoder"].config(size)
    with torch.device("meta"):
        theirs = torch.nn.Transformer(config.width, config.heads, 6, 6, config.feed_forward)
    theirs.encoder.norm = theirs.decoder.norm = None
    count = sum(parameter.numel() for parameter in theirs.parameters()) + config.vocab_size * config.width
    assert count == FAMILIES["encoder_decoder"].sizes[size].parameters


@NORMS
@pytest.mark.parametrize("attention", ["fused", "readable"])
def test_equals_pytorch_layer_by_layer_and_in_gradients(pre_norm, attention):
    torch.manual_seed(0)
    ours, theirs = pair(pre_norm)
    set_implementation(ours, attention)
    compare(ours, theirs)


def test_the_comparison_notices_a_norm_in_the_other_place():
    torch.manual_seed(0)
    ours, theirs = pair(pre_norm=True)
    ours.decoder_blocks[1].post_norm = True
    with pytest.raises(AssertionError, match="layer 4"):
        compare(ours, theirs)


@given(
    family=st.sampled_from([name for name, family in FAMILIES.items() if family.kind == "encoder-decoder"]),
    chunks=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    seed=st.integers(0, 100),
)
@torch.no_grad()
def test_any_chunking_with_padding_anywhere_equals_the_whole_target_at_once(family, chunks, seed):
    torch.manual_seed(seed)
    model = FAMILIES[family].model_class(FAMILIES[family].config())
    randomise(model, torch.Generator().manual_seed(seed))
    length = sum(chunks)
    source, target = torch.randint(61, (3, 6)), torch.randint(61, (3, length))
    source_mask, mask = torch.rand(3, 6) > 0.3, torch.rand(3, length) > 0.3
    source_mask[:, 0] = True
    whole = model(source, target, source_mask=source_mask, mask=mask)
    memory, cache, parts, end = model.encode(source, mask=source_mask), model.new_cache(), [], 0
    for chunk in target.split(chunks, 1):
        end += chunk.shape[1]
        parts.append(model.decode(chunk, memory, mask=mask[:, :end], memory_mask=source_mask, cache=cache))
    torch.testing.assert_close(torch.cat(parts, 1)[mask], whole[mask], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_memory_is_projected_once():
    model, calls = EncoderDecoderTransformer(CONFIG), []
    model.decoder_blocks[0].cross_attention.k_proj.register_forward_hook(lambda *_: calls.append(1))
    memory, cache = model.encode(torch.randint(61, (2, 7))), model.new_cache()
    for _ in range(3):
        model.decode(torch.randint(61, (2, 1)), memory, cache=cache)
    assert len(calls) == 1


def test_a_target_does_not_see_later_tokens_and_does_see_the_source():
    model = EncoderDecoderTransformer(CONFIG)
    source, target = torch.randint(61, (1, 6)), torch.randint(61, (1, 5))
    before = model(source, target)
    later = target.clone()
    later[0, 3] = (later[0, 3] + 1) % 61
    after = model(source, later)
    torch.testing.assert_close(after[0, :3], before[0, :3])
    assert ((after[0, 3:] - before[0, 3:]).abs().amax(-1) > 1e-4).all()
    assert ((model((source + 1) % 61, target) - before).abs().amax(-1) > 1e-4).all()


def test_more_tokens_than_the_model_reads_are_refused():
    model, tokens = EncoderDecoderTransformer(CONFIG), torch.zeros(1, 33, dtype=torch.long)
    for source, target in ((tokens, tokens[:, :2]), (tokens[:, :2], tokens)):
        with pytest.raises(UserError, match="sequence of 33 tokens: this model reads at most 32"):
            model(source, target)
