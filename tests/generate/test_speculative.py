"""Speculative decoding changes the speed and nothing else."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from archlab.generate import speculative
from archlab.generate.engine import generate
from archlab.generate.sampling import distribution, penalise
from archlab.generate.settings import Sampling, Settings
from archlab.generate.speculative import acceptance, residual, speculate

VOCABULARY, STATES, NEW = 3, 4, 4


def distributions(seed, size):
    """Random p and q with zeros in both."""
    chance = np.random.default_rng(seed)
    pair = chance.dirichlet(np.ones(size), 2) * (chance.random((2, size)) > 0.3)
    pair[:, chance.integers(size)] += 0.01
    return torch.from_numpy(pair / pair.sum(1, keepdims=True))


@given(seed=st.integers(0, 10**6), size=st.integers(2, 6))
def test_guess_and_replacement_together_follow_the_models_distribution_exactly(seed, size):
    """Enumerated: every guess the draft may make, accepted or replaced by every token."""
    p, q = distributions(seed, size)
    found = torch.zeros(size, dtype=torch.float64)
    for guess in range(size):
        if q[guess] > 0:
            kept = acceptance(p, q, guess)
            found[guess] += q[guess] * kept
            rest = residual(p, q)
            found += q[guess] * (1 - kept) * rest / rest.sum()
    torch.testing.assert_close(found, p)


def joint(table, prompt, settings):
    """Probability of every continuation of NEW tokens, from the definition."""
    found = {}
    for tokens in itertools.product(range(VOCABULARY), repeat=NEW):
        probability, sequence = 1.0, list(prompt)
        for token in tokens:
            known = torch.zeros(VOCABULARY, dtype=torch.bool)
            known[sequence] = True
            logits = penalise(table[sum(sequence) % STATES], known, settings.repetition_penalty)
            probability *= distribution(logits, settings.strategy)[token].item()
            sequence.append(token)
        found[tokens] = probability
    return found


def p_value(historian, sampling, penalty, samples):
    """Of the chi-square test of sampled continuations against their exact distribution."""
    generator = torch.Generator().manual_seed(0)
    table, guessed = (torch.randn(STATES, VOCABULARY, generator=generator) for _ in range(2))
    model, draft, prompt = historian(table), historian(guessed), [1, 2]
    settings = Settings(max_new_tokens=NEW, repetition_penalty=penalty, strategy=Sampling())
    counts = Counter()
    for seed in range(samples):
        strategy = Sampling(**sampling, seed=seed)
        settings = Settings(max_new_tokens=NEW, repetition_penalty=penalty, strategy=strategy)
        counts[tuple(speculate(model, draft, prompt, settings, ahead=2))] += 1
    expected = joint(table, prompt, settings)
    assert set(counts) <= {tokens for tokens, probability in expected.items() if probability > 0}
    likely = [tokens for tokens, probability in expected.items() if probability * samples >= 5]
    seen = np.array([counts[tokens] for tokens in likely] + [samples - sum(counts[tokens] for tokens in likely)])
    share = np.array([expected[tokens] for tokens in likely])
    share = np.append(share, max(1 - share.sum(), 1e-12))
    return stats.chisquare(seen, share * samples / share.sum()).pvalue


@pytest.mark.parametrize(
    ("sampling", "penalty"), [({}, 1.0), ({"temperature": 0.7, "top_p": 0.95}, 1.4)], ids=["plain", "restricted"]
)
def test_sampled_continuations_follow_the_models_distribution(historian, sampling, penalty):
    assert p_value(historian, sampling, penalty, 5000) > 0.01


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("acceptance", lambda p, q, guess: 1.0),
        ("residual", lambda p, q: p),
    ],
)
def test_the_test_notices_a_wrong_rule(historian, monkeypatch, name, wrong):
    monkeypatch.setattr(speculative, name, wrong)
    assert p_value(historian, {}, 1.0, 1000) < 1e-4


def test_the_test_notices_rejected_tokens_that_stay_in_the_cache(historian, monkeypatch):
    def forgetful(self, length):
        self.length = self.cache[0].length

    monkeypatch.setattr(speculative.Session, "crop", forgetful)
    with pytest.raises((IndexError, RuntimeError, AssertionError)):
        p_value(historian, {}, 1.0, 50)


@pytest.mark.parametrize("penalty", [1.0, 1.4])
def test_greedy_with_a_draft_equals_greedy_without(twin, twins, penalty):
    other = twins(twin.family.name, 7).model
    prompts = [[5, 9, 2], [7], [1, 2, 3, 4, 5, 6, 7]]
    free = generate(twin.model, prompts, Settings(max_new_tokens=14))
    for eos in ((), (free[0][5], free[2][9])):
        settings = Settings(max_new_tokens=14, eos=eos, repetition_penalty=penalty)
        expected = generate(twin.model, prompts, settings)
        for draft in (other, twin.model):
            assert generate(twin.model, prompts, settings, draft=draft) == expected


def test_a_perfect_draft_saves_calls_of_the_model(twin):
    calls = []
    hook = twin.model.register_forward_hook(lambda module, inputs, output: calls.append(inputs[0].shape[1]))
    settings, prompt = Settings(max_new_tokens=10), [4, 8]
    twice = [*speculate(twin.model, twin.model, prompt, settings)]
    both = len(calls)
    calls.clear()
    assert generate(twin.model, [prompt], settings) == [twice]
    hook.remove()
    # Ten calls alone. With a draft that is always right: two rounds of four guesses and one of its own, each of four
    # calls of the draft and one of the model.
    assert (len(calls), both) == (10, 10)


@pytest.mark.parametrize("ahead", [1, 2, 7])
def test_sampling_with_a_draft_is_reproducible(twin, twins, ahead):
    draft = twins(twin.family.name, 7).model
    settings = Settings(max_new_tokens=8, strategy=Sampling(seed=1))
    one = list(speculate(twin.model, draft, [3, 4], settings, ahead=ahead))
    assert len(one) == 8
    assert list(speculate(twin.model, draft, [3, 4], settings, ahead=ahead)) == one
