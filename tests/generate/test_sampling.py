"""Restrictions equal the processors of `transformers`; draws follow the distribution."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from archlab.generate.sampling import Chooser, distribution, draw, penalise, restrict, seen
from archlab.generate.settings import Sampling, Settings

SIZE = 37


def logits(seed, *, ties=False):
    drawn = 3 * torch.randn(5, SIZE, generator=torch.Generator().manual_seed(seed))
    return drawn.round() if ties else drawn


def theirs(x, sampling):
    """Their processors in their order."""
    if sampling.temperature != 1:
        x = TemperatureLogitsWarper(sampling.temperature)(None, x)
    if sampling.top_k:
        x = TopKLogitsWarper(sampling.top_k)(None, x)
    if sampling.top_p < 1:
        x = TopPLogitsWarper(sampling.top_p)(None, x)
    return MinPLogitsWarper(sampling.min_p)(None, x) if sampling.min_p else x


@given(
    temperature=st.sampled_from([1.0, 0.3, 2.5]),
    top_k=st.sampled_from([0, 1, 5, SIZE, 100]),
    top_p=st.sampled_from([1.0, 0.9, 0.5, 1e-3]),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    ties=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_every_combination_of_restrictions_equals_transformers(temperature, top_k, top_p, min_p, ties, seed):
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    x = logits(seed, ties=ties)
    found = restrict(x, sampling)
    assert torch.equal(found, theirs(x, sampling))
    assert found.isfinite().any(-1).all()


def test_the_lowest_temperatures_take_the_likeliest():
    for temperature in (1e-3, 1e-45, 5e-324):
        found = distribution(logits(0), Sampling(temperature=temperature, top_p=0.9))
        assert torch.equal(found, distribution(logits(0), None))


def test_the_comparison_notices_another_order():
    x, sampling = logits(0), Sampling(temperature=3.0, top_p=0.8)
    swapped = TemperatureLogitsWarper(3.0)(None, TopPLogitsWarper(0.8)(None, x))
    assert not torch.equal(restrict(x, sampling), swapped)


@given(penalty=st.sampled_from([1.2, 3.0, 0.5]), seed=st.integers(0, 1000))
def test_the_repetition_penalty_equals_transformers(penalty, seed):
    x = logits(seed)
    tokens = torch.randint(SIZE, (5, 8), generator=torch.Generator().manual_seed(seed))
    expected = RepetitionPenaltyLogitsProcessor(penalty)(tokens, x.clone())
    found = penalise(x, seen(tokens, None, SIZE), penalty)
    assert torch.equal(found, expected)
    assert not torch.equal(found, x)


def test_padding_is_not_seen():
    tokens, mask = torch.tensor([[3, 3, 1], [2, 3, 1]]), torch.tensor([[False, False, True], [False, True, True]])
    assert seen(tokens, mask, 4).tolist() == [[False, True, False, False], [False, True, False, True]]


@given(seed=st.integers(0, 1000), top_k=st.integers(1, SIZE))
def test_evenly_spread_numbers_draw_every_token_as_often_as_it_is_likely(seed, top_k):
    probabilities = distribution(logits(seed)[:1], Sampling(top_k=top_k))
    count = 5000
    uniform = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    drawn = draw(probabilities.expand(count, -1), uniform)
    shares = drawn.bincount(minlength=SIZE) / count
    torch.testing.assert_close(shares, probabilities[0], rtol=0, atol=1.01 / count)
    assert (probabilities[0, drawn] > 0).all()


def test_the_ends_of_the_interval_draw_possible_tokens():
    probabilities = torch.tensor([[0.0, 0.3, 0.1, 0.6, 0.0, 0.0]])
    for uniform, expected in ((0.0, 1), (1 - 2**-53, 3)):
        assert draw(probabilities, torch.tensor([uniform], dtype=torch.float64)).item() == expected
    assert draw(3 * probabilities[0], torch.tensor(0.35, dtype=torch.float64)).item() == 2  # weights, one sample


def test_without_sampling_all_is_on_the_likeliest_token():
    x = logits(0)
    found = distribution(x, None)
    assert torch.equal(found.argmax(-1), x.argmax(-1))
    assert torch.equal(found.sum(-1), torch.ones(5))


@pytest.mark.parametrize("strategy", [None, Sampling(temperature=0.7, top_k=4)])
def test_a_penalty_counts_what_was_chosen(strategy):
    """The same logits, step after step: with a strong penalty every token comes once."""
    x = torch.linspace(60, 59, SIZE)[None]
    prompt = torch.tensor([[4, 5]])
    choose = Chooser(Settings(repetition_penalty=1e3, strategy=strategy, max_new_tokens=SIZE), prompt, None)
    chosen = [choose(x).item() for _ in range(SIZE - 2)]
    assert sorted([*chosen, 4, 5]) == list(range(SIZE))
