"""Encoder-decoders through the engine give the tokens of `transformers.generate`, whatever else is in the batch."""

import pytest
import torch
from transformers import GenerationConfig

from archlab.errors import UserError
from archlab.generate.conditioned import Conditioned
from archlab.generate.engine import generate, stream
from archlab.generate.session import Session, pad_left
from archlab.generate.settings import BeamSearch, Rules, Settings
from archlab.layers.cache import StaticCache
from archlab.models.registry import FAMILIES

NEW, START = 10, 3
FILLER = 59  # pads what transformers returns
SOURCES = [[5, 9, 2, 11], [7, 30, 1, 14, 8, 41, 2], [33, 6]]


@pytest.fixture(params=[name for name, family in FAMILIES.items() if family.kind == "encoder-decoder"])
def pair(request, twins):
    return twins(request.param, 0)


def ours(twin, sources=SOURCES, **settings):
    model = Conditioned(twin.model, *pad_left(sources, torch.device("cpu")))
    return generate(model, [[START]] * len(sources), Settings(max_new_tokens=NEW, **settings))


def theirs(twin, sources=SOURCES, eos=(), **options):
    longest = max(map(len, sources))
    tokens = torch.tensor([source + [0] * (longest - len(source)) for source in sources])
    mask = torch.tensor([[1] * len(source) + [0] * (longest - len(source)) for source in sources])
    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=NEW,
        pad_token_id=FILLER,
        decoder_start_token_id=START,
        eos_token_id=list(eos) or None,
        **options,
    )
    return twin.reference.generate(tokens, attention_mask=mask, generation_config=settings)[:, 1:].tolist()


def same(found, expected):
    """Whether all rows agree; theirs are filled up to the longest."""
    return all(
        row == full[: len(row)] and set(full[len(row) :]) <= {FILLER} for row, full in zip(found, expected, strict=True)
    )


@pytest.fixture
def ends(pair):
    """Two tokens that come in the middle of what is written without an end."""
    free = ours(pair)
    return free[1][4], free[0][6]


def test_greedy_equals_transformers_with_sources_of_different_lengths(pair, ends):
    for eos in ((), ends[:1], ends):
        assert same(ours(pair, eos=eos), theirs(pair, eos=eos))


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("beams", [2, 4])
def test_beam_search_equals_transformers(pair, ends, beams, length_penalty):
    search = BeamSearch(beams=beams, length_penalty=length_penalty)
    for eos in ((), ends):
        expected = theirs(pair, eos=eos, num_beams=beams, length_penalty=length_penalty)
        assert same(ours(pair, eos=eos, strategy=search), expected)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("renormalise", [False, True])
def test_the_rules_of_a_checkpoint_are_those_of_transformers(pair, ends, beams, renormalise):
    strategy = BeamSearch(beams=beams) if beams > 1 else None
    free = ours(pair, strategy=strategy)
    written = [token for row in free for token in row if token not in ends]
    often = max(written, key=written.count)
    rules = Rules(forbidden=(often, 20), forced_end=ends[0], renormalise=renormalise)
    for penalty in (1.0, 1.4):
        found = ours(pair, eos=ends, strategy=strategy, rules=rules, repetition_penalty=penalty)
        expected = theirs(
            pair,
            eos=ends,
            num_beams=beams,
            repetition_penalty=penalty,
            bad_words_ids=[[often], [20]],
            forced_eos_token_id=ends[0],
            renormalize_logits=renormalise,
        )
        assert same(found, expected)
        assert not any(often in row[:-1] for row in found)
        assert all(len(row) < NEW or row[-1] in ends for row in found)


def test_the_comparison_notices_a_source_whose_padding_is_read_and_a_rule_that_is_not_kept(pair, ends):
    padded, _ = pad_left(SOURCES, torch.device("cpu"))
    wrong = generate(Conditioned(pair.model, padded), [[START]] * 3, Settings(max_new_tokens=NEW))
    assert not same(wrong, theirs(pair))
    assert not same(ours(pair), theirs(pair, bad_words_ids=[[ends[0]]]))


@pytest.mark.parametrize("strategy", [None, BeamSearch(beams=3)], ids=["greedy", "beams"])
def test_a_target_does_not_depend_on_the_rest_of_the_batch(pair, strategy):
    together = ours(pair, strategy=strategy)
    assert together == [ours(pair, [source], strategy=strategy)[0] for source in SOURCES]


def test_a_stream_gives_each_step(pair):
    model = Conditioned(pair.model, torch.tensor(SOURCES[:1]))
    steps = list(stream(model, [[START]], Settings(max_new_tokens=NEW)))
    assert [token for (token,) in steps] == ours(pair, SOURCES[:1])[0]


def test_sources_are_read_once_and_the_memory_of_targets_is_set_aside(pair):
    calls = []
    encode = pair.model.encode
    pair.model.encode = lambda *given, **options: calls.append(1) or encode(*given, **options)
    try:
        model = Conditioned(pair.model, torch.tensor(SOURCES[:1]))
        assert len(generate(model, [[START]], Settings(max_new_tokens=NEW))[0]) == NEW
    finally:
        del pair.model.encode
    assert len(calls) == 1
    (written,) = Session(model, NEW).cache
    assert all(type(layer.tokens) is StaticCache for layer in written.caches)


def test_what_is_kept_can_be_cropped_and_repeated(pair):
    model = Conditioned(pair.model, *pad_left(SOURCES, torch.device("cpu")))
    cache, tokens = model.new_cache(), torch.randint(1, 58, (3, 6))
    with torch.inference_mode():
        expected = model(tokens, cache=cache)
        twice = [layer.expand(2) for layer in cache]
        for layer in (cache[0], twice[0]):
            layer.crop(4)
            assert layer.length == 4
        torch.testing.assert_close(model(tokens[:, 4:], cache=cache), expected[:, 4:], rtol=1e-4, atol=1e-4)
        repeated = model(tokens[:, 4:].repeat_interleave(2, 0), cache=twice)
    torch.testing.assert_close(repeated, expected[:, 4:].repeat_interleave(2, 0), rtol=1e-4, atol=1e-4)


def test_a_target_longer_than_the_model_reads_is_refused(twins):
    model = Conditioned(twins("encoder_decoder", 0).model, torch.tensor(SOURCES[:1]))
    with pytest.raises(UserError, match="max_new_tokens: 33 tokens would be read, but this model reads at most 32"):
        generate(model, [[START]], Settings(max_new_tokens=33))
