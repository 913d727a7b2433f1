"""What every decoder refuses."""

import dataclasses

import pytest
import torch

from archlab.errors import UserError
from archlab.models.registry import FAMILIES

DECODERS = {name: family for name, family in FAMILIES.items() if family.kind == "decoder"}


@pytest.fixture(params=DECODERS.values(), ids=DECODERS)
def decoder(request):
    return request.param.model_class(request.param.config())


def options(decoder):
    return {field.name for field in dataclasses.fields(decoder.config)}


def test_more_tokens_than_the_model_reads_are_refused(decoder):
    if "context" not in options(decoder):
        pytest.skip("reads any number of tokens")
    limit, cache = decoder.config.context, decoder.new_cache()
    assert decoder(torch.zeros(1, limit, dtype=torch.long), cache=cache).shape == (1, limit, decoder.config.vocab_size)
    with pytest.raises(UserError, match=f"sequence of {limit + 1} tokens: this model reads at most {limit}"):
        decoder(torch.zeros(1, 1, dtype=torch.long), cache=cache)


def test_a_mask_without_the_cached_tokens_is_refused(decoder):
    cache, tokens = decoder.new_cache(), torch.zeros(1, 3, dtype=torch.long)
    decoder(tokens, cache=cache)
    with pytest.raises(UserError, match=r"mask of shape \(1, 3\): must be \(1, 6\)"):
        decoder(tokens, mask=torch.ones(1, 3, dtype=torch.bool), cache=cache)


@torch.no_grad()
def test_logits_after_the_last_tokens_alone_are_those_of_all(decoder):
    tokens = torch.randint(decoder.config.vocab_size, (2, 7))
    whole = decoder(tokens)
    torch.testing.assert_close(decoder(tokens, keep=3), whole[:, -3:])
    cache = decoder.new_cache()
    torch.testing.assert_close(decoder(tokens[:, :6], cache=cache, keep=1), whole[:, 5:6])
    torch.testing.assert_close(decoder(tokens[:, 6:], cache=cache, keep=1), whole[:, 6:], rtol=1e-4, atol=1e-5)


def test_heads_that_do_not_divide_the_width_are_refused(decoder):
    if "heads" not in options(decoder) or "key_value_latent" in options(decoder):
        pytest.skip("has no heads, or heads that need not divide the width")
    with pytest.raises(UserError, match="heads=5"):
        type(decoder)(dataclasses.replace(decoder.config, heads=5))


def test_a_nonsensical_value_is_refused(decoder):
    for name in {"vocab_size", "context", "depth", "norm_eps"} & options(decoder):
        with pytest.raises(UserError, match=f"{name}=0"):
            dataclasses.replace(decoder.config, **{name: 0})
