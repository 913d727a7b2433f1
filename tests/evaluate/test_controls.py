import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archlab.data.tokenizer import TextTokenizer
from archlab.errors import UserError
from archlab.evaluate.controls import derangement, no_query, shuffled_image


@given(st.integers(2, 200), st.integers(0, 100))
def test_no_image_keeps_its_place_and_every_image_is_shown_once(count, seed):
    other = derangement(count, seed)
    assert not (other == np.arange(count)).any()
    np.testing.assert_array_equal(np.sort(other), np.arange(count))
    np.testing.assert_array_equal(other, derangement(count, seed))


def test_other_seeds_pair_images_otherwise():
    pairings = {tuple(derangement(5, seed)) for seed in range(200)}
    assert len(pairings) == 24  # all cycles through five images, 4!


def test_one_image_cannot_be_shuffled():
    with pytest.raises(UserError, match="at least 2"):
        derangement(1, 0)


def test_all_questions_about_an_image_see_the_same_other_image():
    condition = shuffled_image(10, seed=0)
    images = np.array([3, 3, 7, 3])
    shown = condition(np.arange(4), images)["images"]
    assert shown[0] == shown[1] == shown[3] == derangement(10, 0)[3]
    assert not (shown == images).any()


def test_no_query_leaves_nothing_of_the_question():
    queries = no_query(np.arange(2), np.array([4, 5]))["queries"]
    tokenizer = TextTokenizer.train(["what colour is the cube"], vocab_size=300)
    ids, mask = tokenizer.encode(queries, 48)
    assert [tokenizer.decode(row) for row in ids.tolist()] == ["", ""]
    assert ids.shape[0] == 2
    assert mask.all()
