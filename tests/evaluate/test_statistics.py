import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archlab.errors import UserError
from archlab.evaluate.statistics import Term, combine, paired_difference, percentiles, replicates, score

OPTIONS = {"samples": 400, "seed": 0}


def width(result):
    return result.high - result.low


def naive_interval(values, clusters, samples, level, rng):
    """The definition, one replicate at a time: draw seeds, draw images, pool their items."""
    groups = [values[:, clusters == cluster] for cluster in np.unique(clusters)]
    means = []
    for _ in range(samples):
        seeds = rng.integers(len(values), size=len(values))
        images = rng.integers(len(groups), size=len(groups))
        means.append(np.concatenate([groups[image] for image in images], axis=1)[seeds].mean())
    return np.quantile(means, [(1 - level) / 2, (1 + level) / 2])


@pytest.mark.parametrize("seeds", [1, 4])
def test_interval_equals_the_definition_with_images_of_unequal_size(seeds):
    rng = np.random.default_rng(1)
    clusters = np.repeat(np.arange(40), rng.integers(1, 9, 40))
    values = rng.normal(size=40)[clusters] + 0.5 * rng.normal(size=(seeds, len(clusters))) + rng.normal(size=(seeds, 1))
    result = score(values, clusters, samples=6000, seed=0, unit="x", level=0.9)
    expected = naive_interval(values, clusters, 6000, 0.9, rng)
    assert [result.low, result.high] == pytest.approx(expected, abs=0.05 * width(result))
    assert result.value == pytest.approx(values.mean())


def test_interval_of_one_seed_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(2)
    clusters = np.repeat(np.arange(60), 3)
    covered = 0
    for trial in range(300):
        rate = rng.beta(4, 2, 60)  # items of one image share their difficulty; the true accuracy is 2/3
        hits = (rng.random(180) < rate[clusters]).astype(float)
        result = score(hits, clusters, samples=400, seed=trial, unit="accuracy")
        covered += result.low <= 2 / 3 <= result.high
    assert 0.90 <= covered / 300 <= 0.99


def test_interval_of_several_seeds_covers_a_truth_that_seeds_and_images_both_blur():
    rng = np.random.default_rng(3)
    clusters = np.arange(60)
    covered = 0
    for trial in range(300):
        values = rng.normal(size=(8, 1)) + 3 * rng.normal(size=60) + rng.normal(size=(8, 60))
        result = score(values, clusters, samples=400, seed=trial, unit="x")
        covered += result.low <= 0 <= result.high
    assert 0.90 <= covered / 300 <= 0.99


def test_items_of_one_image_that_agree_widen_the_interval():
    rng = np.random.default_rng(4)
    clusters = np.repeat(np.arange(50), 8)
    values = rng.normal(size=50)[clusters]
    clustered = score(values, clusters, unit="x", **OPTIONS)
    independent = score(values, np.arange(400), unit="x", **OPTIONS)
    assert width(clustered) == pytest.approx(width(independent) * np.sqrt(8), rel=0.2)


def test_seeds_that_disagree_widen_the_interval():
    values = np.tile(np.random.default_rng(5).random(100), (3, 1))
    same = score(values, np.arange(100), unit="x", **OPTIONS)
    different = score(values + np.array([[-1.0], [0.0], [1.0]]), np.arange(100), unit="x", **OPTIONS)
    assert same.value == pytest.approx(different.value)
    assert width(different) > 3 * width(same)


def test_wider_level_gives_wider_interval():
    values = np.random.default_rng(6).random(100)
    narrow, wide = (score(values, np.arange(100), unit="x", level=level, **OPTIONS) for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 40), st.integers(0, 1000))
def test_interval_stays_within_the_values_and_ignores_order_and_names_of_images(seeds, items, draw):
    rng = np.random.default_rng(draw)
    values, clusters = rng.random((seeds, items)), np.sort(rng.integers(0, 5, items))
    result = score(values, clusters, samples=100, seed=draw, unit="x")
    assert values.min() - 1e-9 <= result.low <= result.high <= values.max() + 1e-9
    shuffle = rng.permutation(items)
    named = np.array([f"image-{cluster}" for cluster in clusters])
    again = score(values[:, shuffle], named[shuffle], samples=100, seed=draw, unit="x")
    assert (again.low, again.high) == pytest.approx((result.low, result.high))


def test_chunks_of_replicates_do_not_repeat_each_other():
    # 3,000 images x 2,000 samples go through several chunks; repeated draws would leave few distinct replicates.
    values = np.random.default_rng(7).normal(size=3000)
    result = score(values, np.arange(3000), samples=2000, seed=0, unit="x")
    assert width(result) == pytest.approx(2 * 1.96 * values.std() / np.sqrt(3000), rel=0.1)


def test_same_seed_same_interval_other_seed_other_interval():
    values = np.random.default_rng(8).random(50)
    first, again, other = (score(values, np.arange(50), samples=200, seed=seed, unit="x") for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_score_is_plain_json_and_states_chance_only_if_known():
    values = np.array([[0.0, 1.0], [1.0, 1.0]])
    known = score(values, np.arange(2), unit="accuracy", chance=0.25, **OPTIONS).to_dict()
    assert json.loads(json.dumps(known)) == known
    assert (known["value"], known["n"], known["seeds"], known["unit"], known["chance"]) == (
        0.75,
        2,
        2,
        "accuracy",
        0.25,
    )
    assert "chance" not in score(values, np.arange(2), unit="accuracy", **OPTIONS).to_dict()


def test_too_few_samples_are_the_users_error():
    with pytest.raises(UserError, match="bootstrap_samples=5"):
        score(np.ones(3), np.arange(3), samples=5, seed=0, unit="x")


@pytest.mark.parametrize(
    ("values", "clusters"),
    [(np.ones((2, 3)), np.arange(2)), (np.ones((1, 0)), np.arange(0)), (np.array([1.0, np.nan]), np.arange(2))],
)
def test_values_without_a_score_or_an_image_are_refused(values, clusters):
    with pytest.raises(ValueError, match="values"):
        score(values, clusters, unit="x", **OPTIONS)


def arms(seeds, gain, noise=0.1, items=200):
    rng = np.random.default_rng(9)
    first = rng.random(items) + noise * rng.normal(size=(seeds, items))
    return first, first + np.reshape(gain, (-1, 1)) + noise * rng.normal(size=(seeds, items)), np.arange(items)


def test_pairing_narrows_the_interval_of_correlated_arms():
    first, second, clusters = arms(1, 0.1)
    paired = paired_difference(first, second, clusters, **OPTIONS)
    unpaired = np.hypot(*(width(score(values, clusters, unit="x", **OPTIONS)) for values in (first, second)))
    assert width(paired) < 0.5 * unpaired


@pytest.mark.parametrize(
    ("seeds", "gain", "winner", "why"),
    [
        (3, 0.2, "vljepa", "interval excludes zero"),
        (3, -0.2, "token", "interval excludes zero"),
        (1, 0.2, "undecided", "one seed: no winner"),
        (2, 0.2, "undecided", "two seeds: no winner"),
        (3, 0.0, "undecided", "interval includes zero"),
    ],
)
def test_winner_needs_three_seeds_and_an_interval_without_zero(seeds, gain, winner, why):
    result = paired_difference(*arms(seeds, gain), **OPTIONS)
    assert result.winner == winner
    assert result.why.startswith(why)
    assert result.difference == pytest.approx(gain, abs=0.05)
    assert result.low <= result.difference <= result.high


def test_winner_must_win_under_every_seed():
    gains = np.array([1.0] * 19 + [-0.1])
    result = paired_difference(*arms(20, gains), **OPTIONS)
    assert result.low > 0
    assert (result.winner, result.why) == ("undecided", "seeds disagree in sign")


def test_one_image_decides_nothing():
    result = paired_difference(np.zeros((3, 4)), np.ones((3, 4)), np.zeros(4), **OPTIONS)
    assert (result.winner, result.why) == ("undecided", "one image: no winner")


def test_swapping_the_arms_mirrors_the_difference():
    first, second, clusters = arms(3, 0.2)
    forth = paired_difference(first, second, clusters, names=("a", "b"), **OPTIONS)
    back = paired_difference(second, first, clusters, names=("b", "a"), **OPTIONS)
    assert (forth.difference, forth.low, forth.high) == pytest.approx((-back.difference, -back.high, -back.low))
    assert forth.winner == back.winner == "b"
    assert set(forth.to_dict()) == {"difference", "low", "high", "winner", "why"}


def test_arms_scored_on_different_items_are_refused():
    with pytest.raises(ValueError, match="same seeds and items"):
        paired_difference(np.ones((1, 3)), np.ones((1, 4)), np.arange(3), **OPTIONS)


def test_replicates_of_two_metrics_of_the_same_clusters_are_paired() -> None:
    generator = np.random.default_rng(0)
    sizes = np.array([3.0, 5.0, 2.0, 7.0])
    sums = generator.normal(size=(3, 4)) * sizes
    one, other = (replicates(values, sizes, samples=200, seed=1) for values in (sums, sums + 2 * sizes))
    np.testing.assert_allclose(other - one, 2.0)
    assert one.std() > 0.01


def items_of(seeds, items, mean, rng):
    return (rng.random((seeds, items)) < mean).astype(float)


def test_a_difference_of_terms_on_the_same_images_is_the_paired_difference():
    rng = np.random.default_rng(10)
    clusters = np.sort(rng.integers(0, 60, 240))
    first, second = items_of(3, 240, 0.5, rng), items_of(3, 240, 0.6, rng)
    paired = paired_difference(first, second, clusters, **OPTIONS)
    combined = combine([Term(1.0, second, clusters, "a"), Term(-1.0, first, clusters, "a")], **OPTIONS)
    assert combined.per_seed == pytest.approx((second - first).mean(1))
    assert percentiles(combined.drawn, 0.95) == pytest.approx((paired.low, paired.high))


def test_what_terms_of_the_same_images_share_cancels_and_of_other_images_it_does_not():
    rng = np.random.default_rng(11)
    values, clusters = rng.normal(size=(3, 200)) + rng.normal(size=200), np.arange(200)
    same = combine([Term(1.0, values, clusters, "a"), Term(-1.0, values, clusters, "a")], **OPTIONS)
    assert not same.drawn.any()
    apart = combine([Term(1.0, values, clusters, "a"), Term(-1.0, values, clusters, "b")], **OPTIONS)
    subset = combine([Term(1.0, values, clusters, "a"), Term(-1.0, values[:, 1:], clusters[1:], "a")], **OPTIONS)
    one = score(values - values.mean(1, keepdims=True), clusters, unit="x", **OPTIONS)
    expected = pytest.approx(np.sqrt(2) * width(one), rel=0.25)
    for combined in (apart, subset):
        low, high = percentiles(combined.drawn, 0.95)
        assert high - low == expected


def test_seeds_are_drawn_once_for_all_terms():
    """What a seed adds to both of two arms, on whatever images, is no difference between them."""
    luck = np.array([[0.0], [1.0], [2.0]])
    values, clusters = np.zeros((3, 50)) + luck, np.arange(50)
    combined = combine([Term(1.0, values, clusters, "a"), Term(-1.0, values, clusters, "b")], **OPTIONS)
    np.testing.assert_allclose(combined.drawn, 0, atol=1e-12)


def test_a_slope_is_a_combination_with_the_weights_of_least_squares():
    rng = np.random.default_rng(12)
    x = np.array([0.0, 1.0, 2.0, 5.0])
    levels = [items_of(3, 100, 0.3 + 0.1 * at, rng) for at in x]
    weights = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    terms = [Term(float(w), values, np.arange(100), "a") for w, values in zip(weights, levels, strict=True)]
    expected = [np.polyfit(x, [values[seed].mean() for values in levels], 1)[0] for seed in range(3)]
    assert combine(terms, **OPTIONS).per_seed == pytest.approx(expected)


def test_terms_of_different_seeds_are_refused():
    terms = [Term(1.0, np.ones((seeds, 4)), np.arange(4), "a") for seeds in (3, 2)]
    with pytest.raises(ValueError, match="2 seeds and 3: all terms need the same seeds"):
        combine(terms, **OPTIONS)
