from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from archlab.data.batch import Batch, Collator, meaning_ids, pick
from archlab.data.example import Example, Split
from archlab.data.features import FeatureStore
from archlab.data.tokenizer import TextTokenizer

VIEWS, IMAGES = 3, 4
# Feature (view, image, token) says where it comes from.
STORE = FeatureStore(
    (100 * np.arange(VIEWS)[:, None, None, None] + np.arange(IMAGES)[:, None, None] + np.zeros((1, 1, 2, 5))).astype(
        np.float16
    ),
    "digest",
)
EXAMPLES = [
    Example("a", 2, "vqa", "colour", ["which colour?", "what hue?", "name the colour"], ["red", "it is red"], "c:red"),
    Example("b", 0, "caption", "caption", ["describe it"], ["a red circle", "one circle, red", "red circle"], "x"),
    Example("c", 2, "vqa", "colour", ["which colour?"], ["blue"], "c:blue"),
    Example("d", 3, "vqa", "shade", ["which colour?"], ["red"], "s:red"),
    Example("e", 1, "caption", "caption", ["describe it"], ["nothing"], "y"),
    Example("f", 1, "vqa", "colour", ["what hue?"], ["it is red"], "c:red"),
]
SPLIT = Split("train", np.zeros((IMAGES, 8, 8, 3), np.uint8), EXAMPLES, "d", "i")
TOKENIZER = TextTokenizer.train([text for one in EXAMPLES for text in (*one.queries, *one.targets)], 300)
MEANINGS = meaning_ids(SPLIT)
COLLATE = Collator(SPLIT, STORE, TOKENIZER, MEANINGS, max_query=24, max_target=12)

rows = st.lists(st.integers(0, len(EXAMPLES) - 1), min_size=1, max_size=6).map(np.array)


def spoken(ids: torch.Tensor) -> list[str]:
    return [TOKENIZER.decode(row) for row in ids.tolist()]


def tensors(batch: Batch) -> dict[str, torch.Tensor]:
    return {name: value for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}


def assert_equal(one: Batch, other: Batch) -> None:
    assert one.ids == other.ids
    for name, tensor in tensors(one).items():
        assert torch.equal(tensor, tensors(other)[name]), name


def test_a_batch_is_what_was_asked_for_in_canonical_words_and_plain_images() -> None:
    batch = COLLATE(np.array([1, 0, 3]))
    assert batch.ids == ["b", "a", "d"]
    assert spoken(batch.query) == ["describe it", "which colour?", "which colour?"]
    assert spoken(batch.target) == ["a red circle", "red", "red"]
    assert batch.features[:, 0, 0].tolist() == [0, 2, 3]
    assert batch.features.dtype == torch.float32
    assert batch.features.shape == (3, 2, 5)


@given(rows, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_draws_pick_forms_modulo_their_number(rows: np.ndarray, query: int, target: int) -> None:
    count = len(rows)
    batch = COLLATE(rows, query_forms=np.full(count, query), target_forms=np.full(count, target))
    examples = [EXAMPLES[row] for row in rows]
    assert spoken(batch.query) == [one.queries[query % len(one.queries)] for one in examples]
    assert spoken(batch.target) == [one.targets[target % len(one.targets)] for one in examples]


def test_each_sample_has_its_own_draw() -> None:
    batch = COLLATE(np.array([0, 0, 0]), query_forms=np.array([0, 1, 2]), target_forms=np.array([1, 0, 3]))
    assert spoken(batch.query) == EXAMPLES[0].queries
    assert spoken(batch.target) == ["it is red", "red", "it is red"]
    assert [pick("xyz", number) for number in (0, 2, 3, 2**32 - 1)] == ["x", "z", "x", "x"]


@given(rows, st.data())
def test_views_and_other_images_change_the_features_alone(rows: np.ndarray, data: st.DataObject) -> None:
    views, images = (
        np.array(data.draw(st.lists(st.integers(0, most), min_size=len(rows), max_size=len(rows))))
        for most in (VIEWS - 1, IMAGES - 1)
    )
    plain, other = COLLATE(rows), COLLATE(rows, views=views, images=images)
    assert other.features[:, 0, 0].tolist() == (100 * views + images).tolist()
    assert_equal(replace(other, features=plain.features), plain)
    own = COLLATE(rows, views=views)
    assert own.features[:, 0, 0].tolist() == [100 * v + EXAMPLES[row].image for v, row in zip(views, rows, strict=True)]


def test_other_queries_replace_the_own_and_nothing_else() -> None:
    rows = np.array([0, 2])
    plain, silent = COLLATE(rows), COLLATE(rows, queries=["", ""])
    assert silent.query.tolist() == [[TOKENIZER.bos_id, TOKENIZER.eos_id]] * 2
    assert silent.query_mask.all()
    assert_equal(replace(silent, query=plain.query, query_mask=plain.query_mask), plain)


@given(rows, st.integers(0, 2**32 - 1))
def test_the_same_request_gives_the_same_batch_whatever_was_asked_between(rows: np.ndarray, draw: int) -> None:
    forms = np.full(len(rows), draw)
    before = COLLATE(rows, query_forms=forms, target_forms=forms)
    COLLATE(rows[::-1], views=np.ones(len(rows), int))
    assert_equal(COLLATE(rows, query_forms=forms, target_forms=forms), before)


@given(rows, st.data())
def test_samples_come_in_the_order_asked_for(rows: np.ndarray, data: st.DataObject) -> None:
    chosen = data.draw(st.permutations(range(len(rows))))
    plain, reordered = COLLATE(rows), COLLATE(rows[chosen])
    assert_equal(
        replace(reordered, text=torch.zeros(0)),
        Batch(
            **{name: tensor[chosen] for name, tensor in tensors(plain).items()} | {"text": torch.zeros(0)},  # type: ignore[arg-type]
            ids=[plain.ids[i] for i in chosen],
        ),
    )


@given(rows)
def test_texts_have_one_id_exactly_when_they_are_equal(rows: np.ndarray) -> None:
    batch = COLLATE(rows)
    targets = spoken(batch.target)
    equal = [[one == other for other in targets] for one in targets]
    assert (batch.text[:, None] == batch.text).tolist() == equal


def test_meanings_have_one_id_exactly_when_they_are_equal_whatever_the_words() -> None:
    batch = COLLATE(np.arange(6), target_forms=np.array([1, 0, 0, 0, 0, 0]))
    assert spoken(batch.target)[0] == spoken(batch.target)[5] == "it is red"
    assert batch.meaning[0] == batch.meaning[5]
    assert batch.meaning[0] != batch.meaning[3]  # "red" of another kind: the same word, another meaning
    assert len(set(batch.meaning.tolist())) == 5
    assert batch.meaning.dtype == torch.int64


def test_answers_are_numbered_before_captions_in_order_of_appearance() -> None:
    assert meaning_ids(SPLIT) == {"c:red": 0, "c:blue": 1, "s:red": 2, "x": 3, "y": 4}


def test_ids_come_from_training_and_an_unknown_meaning_is_minus_one() -> None:
    other = replace(SPLIT, examples=[EXAMPLES[2], replace(EXAMPLES[0], meaning="c:green")])
    batch = Collator(other, STORE, TOKENIZER, MEANINGS, 24, 12)(np.array([0, 1]))
    assert batch.meaning.tolist() == [MEANINGS["c:blue"], -1]


@pytest.mark.parametrize(("max_query", "max_target"), [(3, 24), (24, 3)])
def test_queries_and_targets_have_limits_of_their_own(max_query: int, max_target: int) -> None:
    collate = Collator(SPLIT, STORE, TOKENIZER, MEANINGS, max_query, max_target)
    batch = collate(np.arange(6), target_forms=np.ones(6, int))
    assert (batch.query.shape[1] == 3) == (max_query == 3)
    assert (batch.target.shape[1] == 3) == (max_target == 3)
    for ids, mask in ((batch.query, batch.query_mask), (batch.target, batch.target_mask)):
        last = mask.long().sum(1) - 1
        assert (ids[torch.arange(6), last] == TOKENIZER.eos_id).all()
        assert (ids[:, 0] == TOKENIZER.bos_id).all()
