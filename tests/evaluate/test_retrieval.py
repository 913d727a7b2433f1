from itertools import permutations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archlab.evaluate.retrieval import LinearMap, median_rank, ranks, retrieval_hits
from archlab.evaluate.vectors import cosine


def naive(similarity, query_groups, gallery_groups, k):
    """Hits at k and rank of the first right item, averaged over every order that ties allow."""
    hits, firsts = [], []
    for row, group in zip(similarity, query_groups, strict=True):
        orders = [order for order in permutations(range(len(row))) if all(np.diff([row[item] for item in order]) <= 0)]
        first = [next(i for i, item in enumerate(order, 1) if gallery_groups[item] == group) for order in orders]
        hits.append(np.mean([rank <= k for rank in first]))
        firsts.append(np.mean(first))
    return hits, firsts


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 3), st.integers(1, 7))
def test_hits_and_rank_are_the_mean_over_all_tie_breaks(draw, gallery, levels, k):
    rng = np.random.default_rng(draw)
    gallery_groups = rng.integers(0, 3, gallery)
    query_groups = rng.choice(gallery_groups, 3)
    similarity = rng.integers(0, levels, (3, gallery)).astype(float)  # few levels: many ties
    hits, firsts = naive(similarity, query_groups, gallery_groups, k)
    np.testing.assert_allclose(retrieval_hits(similarity, query_groups, gallery_groups, [k])[0][k], hits, atol=1e-12)
    np.testing.assert_allclose(ranks(similarity, query_groups, gallery_groups).expected(), firsts)


@pytest.mark.parametrize("groups", [np.arange(20), np.repeat(np.arange(5), 4), np.array([0] * 17 + [1, 2, 3])])
def test_constant_similarity_scores_exactly_chance(groups):
    hits, chance = retrieval_hits(np.ones((20, 20)), groups, groups)
    sizes = np.array([(groups == group).sum() for group in groups])
    for k in (1, 5, 10):
        assert hits[k].mean() == pytest.approx(chance[k])
        assert chance[k] == pytest.approx(np.mean([1 - comb(20 - r, k) / comb(20, k) for r in sizes]))


def test_chance_counts_duplicates_and_the_strict_variant_does_not():
    groups = np.repeat(np.arange(5), 4)
    similarity = np.random.default_rng(0).random((20, 20))
    assert retrieval_hits(similarity, groups, groups)[1][1] == pytest.approx(4 / 20)
    assert retrieval_hits(similarity, np.arange(20), np.arange(20))[1][1] == pytest.approx(1 / 20)


def test_identical_texts_are_right_in_the_default_and_a_tie_in_the_strict_variant():
    texts = np.eye(3)[[0, 0, 1, 2]]  # items 0 and 1 have one text
    similarity = texts @ texts.T
    groups = np.array([0, 0, 1, 2])
    assert retrieval_hits(similarity, groups, groups)[0][1].tolist() == [1, 1, 1, 1]
    assert retrieval_hits(similarity, np.arange(4), np.arange(4))[0][1].tolist() == [0.5, 0.5, 1, 1]


def test_first_place_is_rank_one_and_recall_counts_places_inclusively():
    similarity = np.array([[9.0, 8, 7, 6, 5, 4], [9, 8, 7, 6, 5, 4], [9, 8, 7, 6, 5, 4]])
    groups = np.array([0, 4, 5])  # right items in first, fifth and sixth place
    hits, _ = retrieval_hits(similarity, groups, np.arange(6))
    assert ranks(similarity, groups, np.arange(6)).expected().tolist() == [1, 5, 6]
    assert [hits[k].tolist() for k in (1, 5, 10)] == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert median_rank(similarity, groups, np.arange(6)) == 5


def test_directions_differ_in_their_gallery():
    similarity = np.array([[0.9, 0.8], [0.1, 0.2], [0.95, 0.0]])  # three images, two texts
    image_groups, text_groups = np.array([0, 1, 1]), np.array([0, 1])
    assert retrieval_hits(similarity, image_groups, text_groups)[0][1].tolist() == [1, 1, 0]
    assert retrieval_hits(similarity.T, text_groups, image_groups)[0][1].tolist() == [0, 0]


def test_arguments_that_no_rank_is_defined_for_are_refused():
    with pytest.raises(ValueError, match="query 1: no gallery item"):
        ranks(np.ones((2, 2)), np.array([0, 5]), np.array([0, 1]))
    with pytest.raises(ValueError, match="NaN"):
        ranks(np.array([[np.nan]]), np.array([0]), np.array([0]))
    with pytest.raises(ValueError, match="must be"):
        ranks(np.ones((2, 3)), np.arange(3), np.arange(2))


def test_cosine_ignores_length_and_survives_zeros_and_half_precision():
    first, second = np.array([[3.0, 0.0], [0.0, 0.0]]), np.array([[5.0, 5.0], [-1.0, 0.0]])
    np.testing.assert_allclose(cosine(first, second), [[np.sqrt(0.5), -1], [0, 0]])
    assert cosine(first.astype(np.float16), second.astype(np.float16)).dtype == np.float32


def pairs(items, noise, seed=0):
    rng = np.random.default_rng(seed)
    weight = np.random.default_rng(99).normal(size=(12, 6))
    source = rng.normal(size=(items, 12)) + 50  # far from the origin, as language model states are
    return source, (source - 50) @ weight + 20 + noise * rng.normal(size=(items, 6))


def test_map_solves_the_ridge_equations():
    source, target = pairs(40, 1.0)
    fitted = LinearMap.fit(source, target, source, target, ridges=[0.3])
    centred = source - source.mean(0)
    covariance = centred.T @ centred / 40
    strength = 0.3 * np.trace(covariance) / 12
    expected = np.linalg.solve(covariance + strength * np.eye(12), centred.T @ (target - target.mean(0)) / 40)
    np.testing.assert_allclose(fitted.weight, expected, atol=1e-9)
    np.testing.assert_allclose(fitted(source), centred @ expected, atol=1e-9)
    np.testing.assert_allclose(fitted.centre_targets(target).mean(0), 0, atol=1e-9)


def test_map_finds_a_linear_relation_and_retrieves_by_it():
    source, target = pairs(300, 0.01)
    fitted = LinearMap.fit(source, target, *pairs(50, 0.01, seed=1))
    unseen_source, unseen_target = pairs(50, 0.01, seed=2)
    similarity = cosine(fitted(unseen_source), fitted.centre_targets(unseen_target))
    assert retrieval_hits(similarity, np.arange(50), np.arange(50))[0][1].mean() == 1


def test_map_takes_the_ridge_that_validation_prefers():
    source, target = pairs(14, 6.0)  # hardly more pairs than dimensions: no ridge overfits
    validation = pairs(400, 0.0, seed=1)
    chosen = LinearMap.fit(source, target, *validation)
    own = np.arange(400)

    def rank(fitted):
        similarity = cosine(fitted(validation[0]), fitted.centre_targets(validation[1]))
        return sum((1 / ranks(matrix, own, own).expected()).mean() for matrix in (similarity, similarity.T))

    alone = {
        ridge: rank(LinearMap.fit(source, target, *validation, ridges=[ridge]))
        for ridge in (10.0, 1.0, 0.1, 0.01, 0.001, 0.0001)
    }
    assert chosen.ridge == max(alone, key=alone.get)
    assert alone[chosen.ridge] > alone[0.0001]


def test_map_survives_features_without_variance():
    source = np.ones((5, 3))
    fitted = LinearMap.fit(source, np.eye(5), source, np.eye(5))
    np.testing.assert_array_equal(fitted(source), 0)
