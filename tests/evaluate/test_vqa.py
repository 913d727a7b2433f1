import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archlab.evaluate.vqa import (
    OTHER,
    confusion,
    credit,
    credit_among,
    length_normalised,
    majority_answers,
    rows_by_kind,
)


def test_credit_goes_to_the_best_candidate():
    scores = np.array([[0.1, 0.9, 0.0], [-3.0, -2.0, -1.0]])
    assert credit(scores, ["red", "blue", "green"], ["blue", "red"]).tolist() == [1, 0]


def test_ties_share_credit_so_that_a_constant_scorer_gets_chance():
    answers = ["a"] * 7 + ["b"] * 2 + ["c"]
    for order in (["a", "b", "c", "d"], ["d", "c", "b", "a"]):
        np.testing.assert_array_equal(credit(np.zeros((10, 4)), order, answers), 0.25)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_credit_is_the_mean_over_all_best_candidates(draw):
    rng = np.random.default_rng(draw)
    scores, labels, answers = rng.integers(0, 3, (5, 6)), rng.integers(0, 4, 6), rng.integers(0, 5, 5)
    expected = [
        np.mean([label == answer for label, value in zip(labels, row, strict=True) if value == max(row)])
        for row, answer in zip(scores, answers, strict=True)
    ]
    np.testing.assert_allclose(credit(scores, labels, answers), expected)


def test_answers_outside_the_candidates_get_no_credit():
    assert credit(np.zeros((1, 2)), ["a", "b"], ["c"]).tolist() == [0]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_credit_among_the_best_grows_to_certainty_from_the_credit_of_the_best(draw):
    rng = np.random.default_rng(draw)
    scores, answers = rng.normal(size=(5, 6)), rng.integers(0, 6, 5)
    credits = [credit_among(k, scores, range(6), answers) for k in range(1, 7)]
    np.testing.assert_array_equal(credits[0], credit(scores, range(6), answers))
    order = np.argsort(-scores, axis=1)
    for k, found in enumerate(credits, 1):
        np.testing.assert_array_equal(found, [answer in row[:k] for answer, row in zip(answers, order, strict=True)])


def test_among_the_best_a_constant_scorer_gets_chance_and_unknown_answers_none():
    np.testing.assert_allclose(credit_among(2, np.zeros((2, 4)), ["a", "b", "c", "d"], ["a", "x"]), [0.5, 0])


def test_nan_scores_are_refused_and_minus_infinity_is_not():
    with pytest.raises(ValueError, match="NaN"):
        credit(np.array([[np.nan, 1.0]]), ["a", "b"], ["a"])
    assert credit(np.array([[-np.inf, -5.0]]), ["a", "b"], ["b"]).tolist() == [1]


def test_length_normalisation_frees_long_candidates_from_their_length():
    log_probs, lengths = np.array([[-2.0, -3.0]]), np.array([1, 3])
    np.testing.assert_allclose(length_normalised(log_probs, lengths), [[-2.0, -1.0]])
    assert credit(log_probs, ["short", "long"], ["long"]).tolist() == [0]
    assert credit(length_normalised(log_probs, lengths), ["short", "long"], ["long"]).tolist() == [1]


def test_candidates_without_a_token_are_refused():
    with pytest.raises(ValueError, match="candidate 1: has no token"):
        length_normalised(np.zeros((1, 2)), np.array([1, 0]))


def test_rows_by_kind_partition_the_items():
    kinds = ["count", "colour", "count", "shape"]
    rows = rows_by_kind(kinds)
    assert {kind: index.tolist() for kind, index in rows.items()} == {"colour": [1], "count": [0, 2], "shape": [3]}


def test_majority_answers_per_kind_by_training_frequency():
    kinds = ["colour"] * 3 + ["count"] * 4
    answers = ["red", "blue", "red", "2", "1", "2", "1"]
    # "1" and "2" tie, alphabetical order decides; "shape" is unknown, the overall majority is "1" likewise
    assert majority_answers(kinds, answers, ["count", "colour", "shape"]) == ["1", "red", "1"]
    with pytest.raises(ValueError, match="empty"):
        majority_answers([], [], ["colour"])


def test_confusion_counts_truth_by_row_and_answer_by_column():
    truth = ["a", "b", "b", "b", "a"]
    result = confusion(truth, {"token": ["a", "b", "a", "b", "a"], "vljepa": truth})
    assert result == {"labels": ["b", "a"], "token": [[2, 1], [0, 2]], "vljepa": [[3, 0], [0, 2]]}


def test_confusion_puts_rare_labels_and_wild_answers_together_at_the_end():
    truth = ["a"] * 3 + ["b"] * 2 + ["c"]
    result = confusion(truth, {"arm": ["a", "zebra", "c", "b", "a", "c"]}, limit=2)
    assert result == {"labels": ["a", "b", OTHER], "arm": [[1, 0, 2], [1, 1, 0], [0, 0, 1]]}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from("abcdefg")), min_size=1), st.integers(1, 6))
def test_confusion_loses_no_item_and_orders_labels_by_frequency(items, limit):
    truth, said = zip(*items, strict=True)
    result = confusion(truth, {"arm": said}, limit)
    matrix, labels = np.array(result["arm"]), [label for label in result["labels"] if label != OTHER]
    assert matrix.sum() == len(items)
    assert len(labels) <= limit
    frequency = [truth.count(label) for label in labels]
    assert frequency == sorted(frequency, reverse=True)
    assert matrix.sum(1)[: len(labels)].tolist() == frequency
    right = sum(t == s for t, s in items if t in labels)
    assert sum(matrix[i, i] for i in range(len(labels))) == right
