import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pycocoevalcap.cider.cider import Cider

from archlab.evaluate.captioning import cider_d, exact_match, nearest_caption, words

SENTENCES = st.lists(st.sampled_from(["a", "red", "blue", "cube", "ball", "left", "of", "the"]), max_size=9).map(
    " ".join
)
CORPORA = st.lists(st.tuples(SENTENCES, st.lists(SENTENCES, min_size=1, max_size=4)), min_size=1, max_size=8)


def reference_scores(candidates, references):
    _, scores = Cider().compute_score(
        {item: list(texts) for item, texts in enumerate(references)},
        {item: [text] for item, text in enumerate(candidates)},
    )
    return scores


@settings(max_examples=150, deadline=None)
@given(CORPORA)
def test_cider_d_equals_the_reference_implementation(corpus):
    candidates, references = zip(*corpus, strict=True)
    assume(any(any(texts) for texts in references))  # the reference implementation needs one word
    np.testing.assert_allclose(
        cider_d(candidates, references), reference_scores(candidates, references), atol=1e-6, rtol=0
    )


def test_cider_d_equals_the_reference_implementation_on_a_long_corpus():
    rng = np.random.default_rng(0)
    vocabulary = [f"w{rank}" for rank in range(40)]
    frequency = 1 / np.arange(1, 41)

    def sentence():
        return " ".join(rng.choice(vocabulary, rng.integers(1, 30), p=frequency / frequency.sum()))

    references = [[sentence() for _ in range(rng.integers(1, 6))] for _ in range(150)]
    candidates = [texts[0] if rng.random() < 0.3 else sentence() for texts in references]
    scores = cider_d(candidates, references)
    np.testing.assert_allclose(scores, reference_scores(candidates, references), atol=1e-6, rtol=0)
    assert 0 < scores.mean() < 10


def test_perfect_captions_score_ten_and_silence_scores_nothing():
    references = [["a red cube on the left"], ["two blue balls near the edge"], ["one green cone stands alone"]]
    np.testing.assert_allclose(cider_d([texts[0] for texts in references], references), 10)
    np.testing.assert_array_equal(cider_d(["", "", ""], references), 0)


def test_one_item_or_none_carries_no_information():
    np.testing.assert_array_equal(cider_d(["a red cube"], [["a red cube"]]), [0.0])
    assert cider_d([], []).shape == (0,)


def test_cider_d_rewards_rare_words_over_common_ones():
    references = [["red cube"], ["red ball"], ["red cone"], ["red ring"]]
    common, rare = cider_d(["red thing", "ball", "x", "x"], references)[:2]
    assert common < rare


def test_repeating_a_right_word_does_not_pay():
    references = [["red cube"], ["green ball"], ["blue cone"]]
    once, often = (cider_d([text, "", ""], references)[0] for text in ("cube", "cube cube cube cube"))
    assert often < once


def test_case_and_punctuation_do_not_count():
    references = [["A red cube."], ["Two blue balls!"]]
    np.testing.assert_array_equal(
        cider_d(["a RED, cube", "two (blue) balls"], references),
        cider_d(["A red cube.", "Two blue balls!"], references),
    )
    assert words("Dog's 2-tone_ÉTÉ") == ["dog", "s", "2", "tone", "été"]
    assert words("cafe\u0301") == words("caf\u00e9") == ["café"]


def test_items_must_have_references_and_one_candidate_each():
    with pytest.raises(ValueError, match="item 1: has no reference"):
        cider_d(["a", "b"], [["a"], []])
    with pytest.raises(ValueError, match="1 candidates for 2 items"):
        cider_d(["a"], [["a"], ["b"]])


def test_exact_match_takes_any_reference_and_all_words_in_order():
    references = [["a red cube", "the cube is red"]] * 4
    said = ["The cube is red.", "a red cube", "cube red a", "a red cube too"]
    assert exact_match(said, references).tolist() == [True, True, False, False]


def test_nearest_caption_goes_by_angle_not_by_length():
    train = np.array([[100.0, 100.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    queries = np.array([[0.1, 5.0], [3.0, 0.1], [2.0, 2.1]])
    assert nearest_caption(queries, train).tolist() == [1, 2, 0]


def test_nearest_caption_agrees_across_chunks_with_the_plain_definition():
    rng = np.random.default_rng(0)
    queries, train = rng.normal(size=(2500, 5)), rng.normal(size=(30, 5))
    expected = [np.argmax([q @ t / np.linalg.norm(t) for t in train]) for q in queries]
    np.testing.assert_array_equal(nearest_caption(queries, train), expected)
    assert nearest_caption(queries[:0], train).shape == (0,)


def test_document_frequencies_can_come_from_another_set_than_the_judged_items() -> None:
    """Several candidates for one item would count its words several times."""
    references = [["a red ring"], ["a blue star"], ["two red hearts"]]
    plain = cider_d(["a red ring", "a star", "hearts"], references)
    twice = cider_d(["a red ring", "a star", "hearts", "hearts"], [*references, references[2]], corpus=references)
    np.testing.assert_allclose(twice, plain[[0, 1, 2, 2]])
    assert not np.allclose(cider_d(["a star", "hearts", "hearts"], [references[1], *[references[2]] * 2]), plain[1:2])
