"""Promises of the named sets on the real prepared files (`ARCHLAB_DATA`, or `shared/data` beside the checkout)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from archlab.config import DataConfig, PairsData
from archlab.data.example import Dataset
from archlab.data.sets import ENVIRONMENT, SETS, load_set
from archlab.data.sets.emoji import HELD_OUT, KEYWORDS, base
from archlab.data.sets.openstax import first_sentence
from archlab.data.sources import image_source, load_dataset

DATA = Path(os.environ.get(ENVIRONMENT) or Path(__file__).parents[4] / "shared" / "data")
pytestmark = pytest.mark.skipif(
    not (DATA / "easy_vqa_images.parquet").is_file(), reason=f"no prepared data in {DATA}; set {ENVIRONMENT}"
)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, str(DATA))


def load(name: str) -> Dataset:
    return load_set(name, "", PairsData(), image_size=64, seed=0)


def sizes(dataset: Dataset) -> dict[str, tuple[int, int]]:
    return {name: (len(split.images), len(split.examples)) for name, split in dataset.splits.items()}


@pytest.mark.parametrize("name", SETS)
def test_every_image_of_a_set_decodes_to_something(name: str) -> None:
    for split in load(name).splits.values():
        step = max(1, len(split.images) // 40)
        sample = split.images[::step]
        assert sample.shape[1:] == (64, 64, 3)
        assert (sample.std(axis=(1, 2, 3)) > 0).mean() > 0.95
        assert all(0 <= one.image < len(split.images) for one in split.examples)
        assert len({one.id for one in split.examples}) == len(split.examples)


def test_easy_vqa_keeps_its_test_set_and_cuts_validation_by_image() -> None:
    dataset = load("easy-vqa")
    assert sizes(dataset)["test"] == (1000, 9673)
    assert sizes(dataset)["train"][0] == 3600
    assert sizes(dataset)["validation"][0] == 400
    assert sum(count for _, count in sizes(dataset).values()) == 38575 + 9673
    assert [note for note in dataset.notes if "occur in train" in note] == []


def test_easy_vqa_asks_for_one_of_thirteen_answers_whatever_the_kind() -> None:
    test = load("easy-vqa")["test"]
    assert set(test.candidates) == {"colour", "shape", "yes/no"}
    assert all(len(answers) == 13 for answers in test.candidates.values())
    assert {one.kind for one in test.examples if one.targets[0] in ("teal", "gray")} == {"colour"}
    assert {one.meaning for one in test.examples if one.kind == "shape"} == {"circle", "rectangle", "triangle"}


def test_easy_vqa_pixels_show_the_colour_that_is_asked_for() -> None:
    test = load("easy-vqa")["test"]
    pure = {"red": 0, "blue": 2}
    hits = []
    for one in test.examples[:2000]:
        if one.kind == "colour" and one.meaning in pure:
            image = test.images[one.image : one.image + 1][0].astype(int)
            shape = image.reshape(-1, 3)[np.ptp(image.reshape(-1, 3), axis=1) > 60]
            hits.append(len(shape) > 0 and shape.mean(axis=0).argmax() == pure[one.meaning])
    assert len(hits) > 30
    assert np.mean(hits) > 0.9


@pytest.mark.parametrize(
    ("name", "counts", "classes"), [("eurosat", (8000, 1000, 1500), 10), ("clothing", (3687, 145, 841), 17)]
)
def test_classification_sets_keep_their_splits(name: str, counts: tuple[int, ...], classes: int) -> None:
    dataset = load(name)
    assert tuple(sizes(dataset).values()) == tuple((count, 2 * count) for count in counts)  # a question and a caption
    assert len(dataset["test"].candidates["class"]) == classes
    assert dataset["test"].examples[0].queries == ("what is this",)


@pytest.mark.parametrize("name", ["eurosat", "clothing"])
def test_captions_of_classes_name_them_in_several_ways_and_mean_them(name: str) -> None:
    dataset = load(name)
    labels = {meaning for texts in dataset["test"].candidates.values() for meaning in texts}
    for split in dataset.splits.values():
        asked = {one.image: one for one in split.examples if one.task == "vqa"}
        captions = [one for one in split.examples if one.task == "caption"]
        assert len(captions) == len(asked) == len(split.images)
        for one in captions:
            assert one.meaning == asked[one.image].meaning
            assert len(set(one.targets)) == 4
            assert all(one.meaning in text for text in one.targets)
    for query in {one.queries[0] for split in dataset.splits.values() for one in split.examples}:
        assert not any(word in query.split() for label in labels for word in label.split()), query  # nothing given away


def test_vqa_rad_keeps_its_test_questions_and_says_that_their_images_are_known() -> None:
    dataset = load("vqa-rad")
    assert sizes(dataset)["test"] == (203, 451)
    assert {one.kind for one in dataset["test"].examples} == {"open", "closed"}
    fit = {"train", "validation"}
    assert sum(sizes(dataset)[name][1] for name in fit) == 1797
    known = {image.row: image for name in fit for image in dataset[name].images.encoded}  # type: ignore[attr-defined]
    assert sum(image.row in known for image in dataset["test"].images.encoded) == 202  # type: ignore[attr-defined]
    assert any("of 203 test images occur in train too" in note for note in dataset.notes)


def test_emoji_are_cut_by_base_emoji() -> None:
    dataset = load("emoji")
    seen: dict[str, str] = {}
    for name in ("train", "validation", "test"):
        for one in dataset[name].examples:
            assert seen.setdefault(base(one.id), name) == name
    assert len(seen) == 1644
    assert sum(sizes(dataset)[name][1] for name in ("train", "validation", "test")) == 3414


def test_emoji_are_looked_for_by_keywords_that_training_never_read() -> None:
    dataset = load("emoji")
    read = [text.lower() for one in dataset["train"].examples for text in one.targets]
    words = {word for text in read for word in text.split(", ")}
    known, unknown = dataset[KEYWORDS], dataset[HELD_OUT]
    assert dataset["test"].examples[0].targets[0] not in known.examples[0].targets
    assert {word for one in known.examples for word in one.targets[0].lower().split(", ")} & words
    assert len(unknown.examples) > 100
    for one in unknown.examples:
        for word in one.targets[0].lower().split(", "):
            assert word not in words
            assert not any(f" {word} " in f" {text} " for text in read)
    assert known.image_digest == unknown.image_digest == dataset["test"].image_digest
    assert len({split.digest for split in dataset.splits.values()}) == len(dataset.splits)
    assert max(len(one.targets) for one in dataset["train"].examples) == 2
    assert "keywords that no training text has" in dataset.notes[-1]


def test_openstax_has_the_first_sentence_first_and_the_full_alt_text_second() -> None:
    dataset = load("openstax")
    assert tuple(count for _, count in sizes(dataset).values()) == (9054, 421, 698)
    one = dataset["train"].examples[0]
    assert one.targets[1].startswith(one.targets[0])
    assert len(one.targets[1]) > len(one.targets[0])
    forms = [one.targets for one in dataset["train"].examples]
    agree = [first_sentence(texts[-1]) == texts[0] for texts in forms]
    assert np.mean(agree) > 0.95  # so that a set made from the official books has the same targets
    assert any(note.startswith("of 698 test captions, 54 occur in train too and 19 repeat") for note in dataset.notes)


def test_a_set_brings_what_is_cited_of_it_and_says_that_it_is() -> None:
    for name, words in (("openstax-photo", ("R@10 28.5 %", "among 249")), ("easy-vqa", ("third party", "87.6 %"))):
        (note,) = [note for note in load(name).notes if note.startswith("cited, not measured in this run")]
        assert all(word in note for word in words)


def test_openstax_photo_is_a_part_of_openstax() -> None:
    photo, whole = load("openstax-photo"), load("openstax")
    assert tuple(count for _, count in sizes(photo).values()) == (3598, 167, 249)
    for name, split in photo.splits.items():
        assert {one.id for one in split.examples} < {one.id for one in whole[name].examples}


def test_the_images_for_pretraining_are_the_training_images_of_the_same_seed() -> None:
    images = image_source("easy-vqa")
    train = load_dataset(DataConfig(source="easy-vqa"), 64)["train"].images
    assert len(images) == len(train) == 3600
    assert np.array_equal(images[100:110], train[100:110])
