"""The engine gives the tokens of `transformers.generate`, whatever else is in the batch."""

import pytest
import torch
from transformers import GenerationConfig

from archlab.errors import UserError
from archlab.generate import session
from archlab.generate.engine import generate, stream
from archlab.generate.settings import BeamSearch, Sampling, Settings
from archlab.layers.cache import KVCache, StaticCache

NEW = 12
FILLER = 59  # pads what transformers returns; not 0, which it takes for none in beam search


def prompts(seed, lengths=(3, 7, 5)):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, 58, (length,), generator=generator).tolist() for length in lengths]


def theirs(twin, prompts, eos=(), **options):
    longest = max(map(len, prompts))
    tokens = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    settings = GenerationConfig(
        do_sample=False, max_new_tokens=NEW, pad_token_id=FILLER, eos_token_id=list(eos) or None, **options
    )
    found = twin.reference.generate(tokens, attention_mask=mask, generation_config=settings)
    return found[:, longest:].tolist()


def same(ours, expected):
    """Whether all rows agree; theirs are filled up to the longest."""
    return all(
        row == full[: len(row)] and set(full[len(row) :]) <= {FILLER} for row, full in zip(ours, expected, strict=True)
    )


@pytest.mark.parametrize("seed", range(3))
def test_greedy_equals_transformers_batched_with_different_lengths_and_ends(twin, seed):
    asked = prompts(seed)
    free = generate(twin.model, asked, Settings(max_new_tokens=NEW))
    assert same(free, theirs(twin, asked))
    ends = (free[1][4], free[0][7])  # in the middle of what comes without them
    for eos in (ends[:1], ends):
        ours = generate(twin.model, asked, Settings(max_new_tokens=NEW, eos=eos))
        assert same(ours, theirs(twin, asked, eos))
        assert min(map(len, ours)) < NEW
        assert all(row[-1] in eos or len(row) == NEW for row in ours)
        assert not any(token in eos for row in ours for token in row[:-1])


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 1.0, 2.0])
@pytest.mark.parametrize("beams", [2, 4])
def test_beam_search_equals_transformers(twin, beams, length_penalty, early_stopping):
    asked = prompts(0)
    free = generate(twin.model, asked, Settings(max_new_tokens=NEW))
    search = BeamSearch(beams=beams, length_penalty=length_penalty, early_stopping=early_stopping)
    options = {"num_beams": beams, "length_penalty": length_penalty, "early_stopping": early_stopping}
    for eos in ((), (free[1][4],), (free[1][4], free[0][7])):
        ours = generate(twin.model, asked, Settings(max_new_tokens=NEW, eos=eos, strategy=search))
        assert same(ours, theirs(twin, asked, eos, **options))


@pytest.mark.parametrize("beams", [1, 3])
def test_the_repetition_penalty_equals_that_of_transformers(twin, beams):
    for seed in range(3):
        asked = prompts(seed, (6,))  # without padding, which transformers takes for seen tokens
        strategy = BeamSearch(beams=beams) if beams > 1 else None
        for penalty in (1.3, 0.8):
            settings = Settings(max_new_tokens=NEW, repetition_penalty=penalty, strategy=strategy)
            expected = theirs(twin, asked, num_beams=beams, repetition_penalty=penalty)
            assert same(generate(twin.model, asked, settings), expected)


def test_the_comparison_notices_a_mask_that_is_ignored_and_another_length_penalty(twin, monkeypatch):
    asked = prompts(0)
    free = generate(twin.model, asked, Settings(max_new_tokens=NEW))
    eos = (free[1][4], free[0][7])
    noticed = []
    for penalty in (-1.0, 2.0):
        search = Settings(max_new_tokens=NEW, eos=eos, strategy=BeamSearch(beams=4, length_penalty=penalty))
        noticed.append(not same(generate(twin.model, asked, search), theirs(twin, asked, eos, num_beams=4)))
    assert any(noticed)
    pad_left = session.pad_left
    monkeypatch.setattr("archlab.generate.engine.pad_left", lambda *given: (pad_left(*given)[0], None))
    wrong = [generate(twin.model, prompts(seed), Settings(max_new_tokens=NEW)) for seed in range(4)]
    assert not all(same(found, theirs(twin, prompts(seed))) for seed, found in enumerate(wrong))


@pytest.mark.parametrize("strategy", [None, BeamSearch(beams=3)], ids=["greedy", "beams"])
@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_a_continuation_does_not_depend_on_the_rest_of_the_batch(twin, strategy, penalty):
    asked = prompts(1, (1, 9, 4, 4))
    settings = Settings(max_new_tokens=NEW, strategy=strategy, repetition_penalty=penalty)
    together = generate(twin.model, asked, settings)
    assert together == [generate(twin.model, [prompt], settings)[0] for prompt in asked]


def test_sampling_is_reproducible_and_draws_of_a_prompt_do_not_depend_on_later_ones(twin):
    asked = prompts(2)
    settings = Settings(max_new_tokens=NEW, strategy=Sampling(temperature=1.5, seed=3))
    one = generate(twin.model, asked, settings)
    assert generate(twin.model, asked, settings) == one
    assert generate(twin.model, asked[:1], settings) == one[:1]
    other = Settings(max_new_tokens=NEW, strategy=Sampling(temperature=1.5, seed=4))
    assert generate(twin.model, asked, other) != one
    assert generate(twin.model, asked, settings) != generate(twin.model, asked, Settings(max_new_tokens=NEW))


def test_sampling_from_the_likeliest_token_alone_is_greedy(twin):
    expected = generate(twin.model, prompts(0), Settings(max_new_tokens=NEW))
    for sampling in (Sampling(top_k=1), Sampling(top_p=1e-6), Sampling(min_p=1.0), Sampling(temperature=1e-6)):
        assert generate(twin.model, prompts(0), Settings(max_new_tokens=NEW, strategy=sampling)) == expected


def test_a_stream_gives_each_step_and_ends_when_the_caller_ends_every_sample(twin):
    expected = generate(twin.model, prompts(0), Settings(max_new_tokens=NEW))
    ended, steps = set(), []
    for tokens in stream(twin.model, prompts(0), Settings(max_new_tokens=NEW), ended=ended):
        steps.append(tokens)
        if len(steps) == 4:
            ended.update(range(3))
    assert [list(row) for row in zip(*steps, strict=True)] == [row[:4] for row in expected]


@pytest.mark.parametrize("strategy", [None, BeamSearch(beams=2)], ids=["greedy", "beams"])
def test_of_a_prompt_only_the_last_logits_are_computed(twin, strategy):
    shapes = set()
    hook = twin.model.register_forward_hook(lambda *args: shapes.add(args[2].shape[1]))
    generate(twin.model, prompts(0), Settings(max_new_tokens=3, strategy=strategy))
    hook.remove()
    assert shapes == {1}


def test_a_cache_that_was_filled_before_is_continued(twin):
    prompt = prompts(0, (8,))[0]
    cache = twin.model.new_cache()
    with torch.no_grad():
        twin.model(torch.tensor([prompt[:5]]), cache=cache)
    for strategy in (None, BeamSearch(beams=2)):
        settings = Settings(max_new_tokens=6, strategy=strategy)
        kept = [layer.expand(1) for layer in cache]
        assert generate(twin.model, [prompt[5:]], settings, cache=kept) == generate(twin.model, [prompt], settings)


def test_plain_caches_get_their_memory_at_once_and_other_kinds_stay(historian):
    class Own(KVCache):
        pass

    model = historian(torch.eye(3))
    model.new_cache = lambda: [KVCache(), Own()]
    kinds = [type(layer) for layer in session.Session(model, 5).cache]
    assert kinds == [StaticCache, Own]


def test_the_context_can_be_filled_to_its_last_token_and_no_further(twin):
    limit = session.context(twin.model)
    if limit is None:
        pytest.skip("reads any number of tokens")
    prompt = prompts(0, (limit - 2,))
    assert len(generate(twin.model, prompt, Settings(max_new_tokens=3))[0]) == 3
    with pytest.raises(UserError, match=f"max_new_tokens: {limit + 1} tokens would be read, .* at most {limit}; "):
        generate(twin.model, prompt, Settings(max_new_tokens=4))


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([[1], []], {}, "prompt of 0 tokens"),
        ([], {}, "prompt of 0 tokens"),
        ([[1]], {"draft": 1, "strategy": BeamSearch()}, "leave out the beams"),
        ([[1]], {"draft": 1, "cache": 1}, "knows nothing of a cache"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(twin, prompts, options, message):
    given = {name: twin.model for name in options if name != "strategy"}
    with pytest.raises(UserError, match=message):
        generate(twin.model, prompts, Settings(strategy=options.get("strategy")), **given)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (Settings, "max_new_tokens", 0),
        (Settings, "repetition_penalty", 0.0),
        (Sampling, "temperature", 0.0),
        (Sampling, "top_k", -1),
        (Sampling, "top_p", 0.0),
        (Sampling, "min_p", 1.5),
        (BeamSearch, "beams", 0),
        (BeamSearch, "length_penalty", float("nan")),
    ],
)
def test_a_nonsensical_value_is_refused(kind, name, value):
    with pytest.raises(UserError, match=f"{name}={value}"):
        kind(**{name: value})
