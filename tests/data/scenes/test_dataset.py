"""Promises about the splits: the contract holds, the dial changes wording only, and digests tell data apart."""

import dataclasses
import sys

import numpy as np
import pytest

from archlab.data.batch import pick
from archlab.data.order import Order
from archlab.data.scenes.dataset import SceneDataConfig, build_scenes
from archlab.data.scenes.language import HELD_OUT_WORDINGS, PARAPHRASES, wordings
from archlab.data.scenes.render import render
from archlab.errors import UserError

SMALL = SceneDataConfig(train_images=40, validation_images=10, test_images=20, paraphrases=2)


def facts(split):
    """All of an example but its wording."""
    return [(one.id, one.image, one.task, one.kind, one.meaning) for one in split.examples]


def texts(split):
    return [(list(one.queries), list(one.targets)) for one in split.examples]


def test_all_promised_splits_exist_with_the_configured_sizes(dataset, config):
    sizes = {name: len(split.images) for name, split in dataset.splits.items()}
    assert sizes == {
        "train": config.train_images,
        "validation": config.validation_images,
        "test": config.test_images,
        "test_combinations": config.test_images,
        "test_backgrounds": config.test_images,
        "test_forms": config.test_images,
    }


def test_every_image_has_its_questions_and_one_caption(dataset, config):
    for split in dataset.splits.values():
        examples = split.examples
        assert len(examples) == len(split.images) * (config.questions_per_image + 1)
        assert [one.image for one in examples] == sorted(one.image for one in examples)
        assert sum(one.task == "caption" for one in examples) == len(split.images)
        assert {one.task for one in examples} == {"vqa", "caption"}
        assert len({one.id for one in examples}) == len(examples)
        assert split.images[:].dtype == np.uint8


def test_candidates_and_meanings_fit_together(dataset):
    for name, split in dataset.splits.items():
        for kind, answers in split.candidates.items():
            assert all(answer in split.canonical_meaning for answer in answers), kind
        for one in split.examples:
            if one.task == "vqa":
                meanings = [split.canonical_meaning[answer] for answer in split.candidates[one.kind]]
                assert meanings.count(one.meaning) == 1
                if name != "test_forms":
                    assert split.canonical_meaning[one.targets[0]] == one.meaning


def test_building_twice_gives_equal_digests_images_and_texts():
    first, second = build_scenes(SMALL), build_scenes(SMALL)
    assert first.digest() == second.digest()
    for name, split in first.splits.items():
        assert np.array_equal(split.images[:], second[name].images[:])
        assert texts(split) == texts(second[name])


def test_the_dial_changes_targets_and_nothing_else():
    built = [build_scenes(dataclasses.replace(SMALL, paraphrases=dial)) for dial in PARAPHRASES]
    for one, dial in zip(built, PARAPHRASES, strict=True):
        for name, split in built[0].splits.items():
            assert facts(one[name]) == facts(split)
            assert one[name].image_digest == split.image_digest
            assert [list(e.queries) for e in one[name].examples] == [list(e.queries) for e in split.examples]
            expected = len(HELD_OUT_WORDINGS) if name == "test_forms" else dial
            assert {len(e.targets) for e in one[name].examples} == {expected}
            if name != "test_forms":
                assert [e.targets[0] for e in one[name].examples] == [e.targets[0] for e in split.examples]
        assert one["train"].digest != built[0]["train"].digest or dial == 1


@pytest.mark.parametrize("dials", [{"query_paraphrases": 4}, {}], ids=["fixed", "with-K"])
def test_training_hears_the_same_questions_in_the_same_order_at_every_k(dials):
    """Unless queries are reworded with K, as a control shows: then two settings tell more than what K is about."""
    heard = [told(dataclasses.replace(SMALL, paraphrases=k, **(dials or {"query_paraphrases": k}))) for k in (1, 4, 32)]
    asked, answered = zip(*heard, strict=True)
    assert (asked[0] == asked[1] == asked[2]) == bool(dials)
    assert len(set(answered)) == 3


def told(config):
    """What 30 steps are asked of which images, with the meanings of the answers; and what they are told."""
    examples = build_scenes(config)["train"].examples
    tasks = np.array([one.task for one in examples])
    order = Order.draw([np.flatnonzero(tasks == task) for task in np.unique(tasks)], 30, 8, seed=0)
    steps = zip(*(part.ravel() for part in (order.rows, order.query_forms, order.target_forms)), strict=True)
    drawn = [(examples[row], query, target) for row, query, target in steps]
    asked = tuple((one.image, one.meaning, pick(one.queries, query)) for one, query, _ in drawn)
    return asked, tuple(pick(one.targets, target) for one, _, target in drawn)


def test_a_larger_train_split_begins_with_the_smaller_one():
    small, large = build_scenes(SMALL), build_scenes(dataclasses.replace(SMALL, train_images=70))
    assert np.array_equal(large["train"].images[:40], small["train"].images[:])
    count = len(small["train"].examples)
    assert facts(large["train"])[:count] == facts(small["train"])
    assert texts(large["train"])[:count] == texts(small["train"])
    assert large["test"].digest == small["test"].digest
    assert large["train"].digest != small["train"].digest


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"image_size": 48},
        {"max_objects": 3},
        {"questions_per_image": 3},
        {"max_noise": 30},
        {"query_paraphrases": 8},
    ],
)
def test_any_change_of_data_changes_the_digest(change):
    changed = build_scenes(dataclasses.replace(SMALL, **change))
    assert changed["test"].digest != build_scenes(SMALL)["test"].digest


def test_image_digests_depend_on_the_images_alone(dataset):
    digests = {name: split.image_digest for name, split in dataset.splits.items()}
    assert digests.pop("test_forms") == digests["test"]
    assert len(set(digests.values())) == len(digests)


def test_no_image_occurs_in_two_splits(dataset):
    images = [
        image.tobytes() for name, split in dataset.splits.items() if name != "test_forms" for image in split.images[:]
    ]
    assert len(set(images)) == len(images)


def test_test_forms_asks_the_same_in_unseen_words(dataset):
    plain, reworded = dataset["test"], dataset["test_forms"]
    assert facts(plain) == facts(reworded)
    assert np.array_equal(plain.images[:], reworded.images[:])
    seen = {
        text
        for split in dataset.splits.values()
        if split is not reworded
        for e in split.examples
        for text in (*e.queries, *e.targets)
    }
    full = build_scenes(dataclasses.replace(SMALL, paraphrases=32))
    seen |= {text for e in full["train"].examples for text in (*e.queries, *e.targets)}
    assert not any(text in seen for e in reworded.examples for text in (*e.queries, *e.targets))


def test_test_forms_uses_all_held_out_forms_first_about_equally(dataset):
    captions = [one for one in dataset["test_forms"].examples if one.task == "caption"]
    firsts = [one.queries[0] for one in captions]
    assert len(set(firsts)) == len(HELD_OUT_WORDINGS)
    assert max(firsts.count(text) for text in set(firsts)) < 0.4 * len(firsts)


@pytest.mark.parametrize("meaning", ["truth:yes", "size:small"])
def test_answers_to_test_forms_begin_with_all_held_out_forms_too(dataset, meaning):
    firsts = [one.targets[0] for one in dataset["test_forms"].examples if one.meaning == meaning]
    assert len(set(firsts)) == len(HELD_OUT_WORDINGS)


def test_the_digest_depends_on_the_pixels(monkeypatch):
    honest = build_scenes(SMALL)
    monkeypatch.setattr("archlab.data.scenes.dataset.render", lambda scenes, size: 255 - render(scenes, size))
    changed = build_scenes(SMALL)
    for name, split in honest.splits.items():
        assert changed[name].digest != split.digest
        assert changed[name].image_digest != split.image_digest


def test_forms_are_not_stored(dataset):
    example = dataset["train"].examples[0]
    assert example.queries.wordings is wordings(4) or example.queries.wordings == wordings(4)
    assert sys.getsizeof(example.queries) < 100


@pytest.mark.parametrize(
    "wrong",
    [
        {"train_images": 0},
        {"validation_images": 2.5},
        {"test_images": "many"},
        {"questions_per_image": 9},
        {"paraphrases": 3},
        {"query_paraphrases": 3},
        {"image_size": 1},
    ],
)
def test_a_bad_setting_is_a_user_error_that_names_it(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        SceneDataConfig(**wrong)
