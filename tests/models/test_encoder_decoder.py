"""The first Transformer against PyTorch's own, with norms in either place, and what encoder-decoders refuse."""

from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from archlab.errors import UserError
from archlab.interop.parity import torch_layers
from archlab.interop.parity.twin import randomise
from archlab.interop.torch_translator import TorchTranslator
from archlab.layers.attention import Implementation, set_implementation
from archlab.models.encoder_decoder import EncoderDecoderConfig, EncoderDecoderTransformer
from archlab.models.registry import FAMILIES

CONFIG = EncoderDecoderConfig(
    vocab_size=61, context=32, width=24, depth=3, decoder_depth=2, heads=3, feed_forward=40, norm_eps=1e-4
)


@pytest.mark.parametrize("size", ["base", "big"])
def test_a_published_size_has_as_many_parameters_as_pytorchs(size):
    with torch.device("meta"):
        theirs = TorchTranslator(FAMILIES["encoder_decoder"].config(size))
    count = sum(parameter.numel() for parameter in theirs.parameters())
    assert count == FAMILIES["encoder_decoder"].sizes[size].parameters


@pytest.mark.parametrize("pre_norm", [False, True], ids=["post-norm", "pre-norm"])
@pytest.mark.parametrize("attention", get_args(Implementation))
def test_equals_pytorch_layer_by_layer_and_in_gradients(pre_norm, attention):
    pair = torch_layers.build(FAMILIES["encoder_decoder"].config(), pre_norm=pre_norm)
    set_implementation(pair.model, attention)
    error, passed, where = pair.compare()
    assert passed, f"{where}: off by {error}"


class Allocations(TorchDispatchMode):
    """Memory of every result with so many entries."""

    def __init__(self, entries):
        super().__init__()
        self.entries, self.kept, self.found = entries, [], set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.numel() == self.entries:
            self.kept.append(out)  # so that no address is given twice
            self.found.add(out.untyped_storage().data_ptr())
        return out


def test_logits_are_in_memory_once_whether_the_weights_bring_a_bias_or_not():
    model, tokens = EncoderDecoderTransformer(CONFIG), torch.randint(61, (2, 7))
    with Allocations(2 * 7 * 61) as allocations:
        logits = model(tokens, tokens)
    assert allocations.found == {logits.untyped_storage().data_ptr()}
    with torch.no_grad():
        model.output_bias.normal_()
        torch.testing.assert_close(model(tokens, tokens), logits + model.output_bias)


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
