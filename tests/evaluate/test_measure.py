from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from archlab.data.batch import Batch, Collator
from archlab.data.example import Example, Split
from archlab.errors import UserError
from archlab.evaluate.captioning import cider_d
from archlab.evaluate.controls import no_query, shuffled_image
from archlab.evaluate.measure import (
    OPEN_VOCABULARY,
    Items,
    Measurement,
    add_captions,
    batches_of,
    fit_retrieval_map,
    measure_captions,
    measure_likelihood_retrieval,
    measure_retrieval,
    measure_right,
    measure_vqa,
    scores_of,
    unit_of,
)
from archlab.evaluate.retrieval import LinearMap
from archlab.train.setup import Setup

RETRIEVAL = [f"retrieval/{way}_r{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)]


class Oracle:
    """A read-out that knows the answers: always right, always wrong, or the same whatever it is asked.

    `form` is the surface form in which it speaks.
    """

    def __init__(self, collator: Collator, kind: str = "right", form: int = 0) -> None:
        self.split, self.kind, self.form = collator.split, kind, form
        self.examples = {example.id: example for example in collator.split.examples}
        self.meanings = sorted({example.meaning for example in collator.split.examples})
        self.of_text = {example.targets[0]: example.meaning for example in collator.split.examples}
        self.sign = {"right": 1.0, "wrong": -1.0, "constant": 0.0}[kind]

    def choose(self, batch: Batch, candidates: Sequence[str]) -> dict[str, np.ndarray]:
        meanings = [self.split.canonical_meaning[candidate] for candidate in candidates]
        right = np.array([[meaning == self.examples[id].meaning for meaning in meanings] for id in batch.ids])
        return {"first": self.sign * right, "second": -self.sign * right}

    def speak(self, batch: Batch) -> list[str]:
        if self.kind == "right":
            return [self.examples[id].targets[self.form] for id in batch.ids]
        return ["zzz"] * len(batch.ids)

    def image_vectors(self, batch: Batch) -> np.ndarray:
        return self.sign * self._vectors([self.examples[id].meaning for id in batch.ids])

    def text_vectors(self, texts: Sequence[str]) -> np.ndarray:
        return self._vectors([self.of_text[text] for text in texts])

    def _vectors(self, meanings: Sequence[str]) -> np.ndarray:
        return np.eye(len(self.meanings))[[self.meanings.index(meaning) for meaning in meanings]]


class Seer(Oracle):
    """Describes the image that it is shown, whatever the batch says of it, and notes what it is shown and asked."""

    def __init__(self, collator: Collator) -> None:
        super().__init__(collator)
        images = np.arange(len(collator.split.images))
        self.known = collator.features.read(images).reshape(len(images), -1)
        self.captions = {one.image: one.targets[0] for one in collator.split.examples if one.task == "caption"}
        self.shown: list[int] = []
        self.asked: list[list[int]] = []

    def speak(self, batch: Batch) -> list[str]:
        features = batch.features.numpy().reshape(len(batch.ids), -1)
        images = [int(np.abs(self.known - row).sum(1).argmin()) for row in features]
        self.shown += images
        self.asked += batch.query.tolist()
        return [self.captions[image] for image in images]


@pytest.fixture(scope="module")
def collator(tiny_setup: Setup) -> Collator:
    return tiny_setup.collator("test")


@pytest.fixture(scope="module")
def items(collator: Collator) -> Items:
    return Items.first(collator.split, 1000)


def measured(oracle: Oracle, collator: Collator, items: Items) -> Measurement:
    result = Measurement()
    measure_vqa(result, oracle, collator, items.vqa)
    measure_captions(result, oracle, collator, items.captions)
    measure_retrieval(result, oracle, collator, items.captions)
    return result


def test_who_is_always_right_scores_one_everywhere(collator: Collator, items: Items) -> None:
    means = measured(Oracle(collator), collator, items).means()
    kinds = {collator.split.examples[row].kind for row in items.vqa} - OPEN_VOCABULARY
    names = {*(f"vqa/{kind}" for kind in kinds), "vqa/accuracy", "classification/accuracy"}
    assert names | {"caption/slots", "caption/exact", *RETRIEVAL} <= means.keys()
    for name in means:
        if not name.startswith("vqa_second"):
            assert means[name] == 1.0 or name == "caption/cider_d", name


def test_who_is_always_wrong_scores_zero_everywhere(collator: Collator, items: Items) -> None:
    means = measured(Oracle(collator, "wrong"), collator, items).means()
    assert "vqa/accuracy" in means
    for name in means:
        assert means[name] == (1.0 if name.startswith("vqa_second") else 0.0), name


def test_who_always_says_the_same_scores_exactly_chance(collator: Collator, items: Items) -> None:
    result = measured(Oracle(collator, "constant"), collator, items)
    assert {"vqa/accuracy", "classification/accuracy", *RETRIEVAL} <= result.chance.keys()
    for name, chance in result.chance.items():
        assert 0 < chance < 1 or name.endswith("r10")
        assert result.means()[name] == pytest.approx(chance), name


def test_the_open_vocabulary_is_reported_as_classification_and_counts_towards_no_accuracy(
    collator: Collator, items: Items
) -> None:
    class OnlyObjects(Oracle):
        def choose(self, batch: Batch, candidates: Sequence[str]) -> dict[str, np.ndarray]:
            kind = {self.examples[id].kind for id in batch.ids}
            return {"first": super().choose(batch, candidates)["first"] * (1 if kind <= OPEN_VOCABULARY else -1)}

    result = measured(OnlyObjects(collator), collator, items)
    objects = [row for row in items.vqa if collator.split.examples[row].kind in OPEN_VOCABULARY]
    assert result.means()["classification/accuracy"] == 1
    assert result.means()["vqa/accuracy"] == 0
    assert len(result.values["classification/accuracy"]) == len(objects) > 0
    assert len(result.values["vqa/accuracy"]) == len(items.vqa) - len(objects)
    assert "vqa/object" not in result.values.keys() | result.chance.keys()
    assert result.chance["classification/accuracy"] == 1 / len(set(collator.split.candidates["object"]))


def test_where_the_class_is_all_that_is_asked_there_is_classification_alone(collator: Collator, items: Items) -> None:
    split = collator.split
    answers = list(split.canonical_meaning)
    classes = [replace(one, kind="class") if one.task == "vqa" else one for one in split.examples]
    asked = copy(collator)
    asked.split = replace(split, examples=classes, candidates={"class": answers})
    result = Measurement()
    measure_vqa(result, Oracle(asked, "constant"), asked, items.vqa)
    classification = {"classification/accuracy", "classification/top5"}
    assert {name for name in result.values if not name.startswith("vqa_second")} == classification
    assert len(result.values["classification/accuracy"]) == len(items.vqa)
    classes_named = len({split.canonical_meaning[one] for one in answers})
    chance = {"classification/accuracy": 1 / classes_named, "classification/top5": 5 / classes_named}
    assert result.chance == pytest.approx(chance)
    assert {name: result.means()[name] for name in classification} == pytest.approx(chance)
    right = Measurement()
    measure_right(right, np.ones(len(items.vqa)), [classes[row] for row in items.vqa])
    assert right.means() == {"classification/accuracy": 1.0}


def test_accuracy_is_over_questions_and_every_kind_has_its_own(collator: Collator, items: Items) -> None:
    class OnlyColours(Oracle):
        def choose(self, batch: Batch, candidates: Sequence[str]) -> dict[str, np.ndarray]:
            kind = {self.examples[id].kind for id in batch.ids}
            return {"first": super().choose(batch, candidates)["first"] * (1 if kind == {"colour"} else -1)}

    means = measured(OnlyColours(collator), collator, items).means()
    kinds = [collator.split.examples[row].kind for row in items.vqa]
    closed = [kind for kind in kinds if kind not in OPEN_VOCABULARY]
    assert means["vqa/colour"] == 1
    assert means["vqa/shape"] == 0
    assert means["vqa/accuracy"] == pytest.approx(closed.count("colour") / len(closed))


def test_other_read_outs_have_names_of_their_own(collator: Collator, items: Items) -> None:
    """The first is primary: it alone decides the answer, and `vqa/...` is its score."""
    means = measured(Oracle(collator), collator, items).means()
    assert means["vqa/accuracy"] == 1
    assert means["vqa_second/accuracy"] == 0
    assert means["vqa_second/colour"] == 0
    answers = measured(Oracle(collator), collator, items).answers
    for row in items.vqa:
        assert collator.split.canonical_meaning[answers[row]] == collator.split.examples[row].meaning


def test_every_value_carries_the_image_it_came_from(collator: Collator, items: Items) -> None:
    result = measured(Oracle(collator), collator, items)
    examples = collator.split.examples
    for name, values in result.values.items():
        assert len(result.clusters[name]) == len(values), name
    assert result.clusters["vqa/colour"].tolist() == [
        examples[row].image for row in items.vqa if examples[row].kind == "colour"
    ]
    for name in ("caption/slots", "retrieval/text_to_image_r1"):
        assert result.clusters[name].tolist() == [examples[row].image for row in items.captions]


def test_values_belong_to_their_items(collator: Collator, items: Items) -> None:
    """Right on the items of one image alone: exactly that image's values are one."""

    class OnlyImage(Oracle):
        def choose(self, batch: Batch, candidates: Sequence[str]) -> dict[str, np.ndarray]:
            sign = [1 if self.examples[id].image == 3 else -1 for id in batch.ids]
            return {"first": super().choose(batch, candidates)["first"] * np.array(sign)[:, None]}

    result = measured(OnlyImage(collator), collator, items)
    np.testing.assert_array_equal(result.values["vqa/accuracy"], result.clusters["vqa/accuracy"] == 3)
    assert 0 < result.means()["vqa/accuracy"] < 1


@pytest.mark.parametrize("form", [0, 1, 3])
def test_captions_are_compared_with_every_surface_form(collator: Collator, items: Items, form: int) -> None:
    oracle = Oracle(collator, form=form)
    result = measured(oracle, collator, items)
    examples = [collator.split.examples[row] for row in items.captions]
    expected = cider_d([one.targets[form] for one in examples], [list(one.targets) for one in examples])
    np.testing.assert_allclose(result.values["caption/cider_d"], expected)
    assert result.means()["caption/slots"] == 1  # whatever the words, the meaning is right
    canonical = cider_d([one.targets[form] for one in examples], [[one.targets[0]] for one in examples])
    assert not np.allclose(expected, canonical)


def test_slots_give_credit_for_the_part_that_is_right(collator: Collator, items: Items) -> None:
    result, row = Measurement(), items.captions[:1]
    caption = collator.split.examples[row[0]].targets[0]
    colour = next(word for word in caption.split() if word in ("red", "green", "blue", "yellow", "purple", "pink"))
    add_captions(result, [caption.replace(colour, "orange", 1)], collator, row)
    assert 0.5 < result.means()["caption/slots"] < 1
    assert result.means()["caption/exact"] == 0


def test_captions_of_an_unknown_world_have_no_slots(collator: Collator, items: Items) -> None:
    split = collator.split
    examples = [replace(one, meaning=f"text:{one.meaning}") for one in split.examples]
    other = Collator(
        replace(split, examples=examples), collator.features, collator.tokenizer, collator.meanings, 48, 64
    )
    result = Measurement()
    measure_captions(result, Oracle(other), other, items.captions)
    assert result.values.keys() == {"caption/cider_d"}


def test_what_was_said_is_kept_by_the_row_of_its_example(collator: Collator, items: Items) -> None:
    answers = measured(Oracle(collator), collator, items).answers
    assert set(answers) == {*items.vqa, *items.captions}
    for row in items.captions:
        assert answers[row] == collator.split.examples[row].targets[0]


def test_the_two_directions_of_retrieval_are_told_apart(collator: Collator, items: Items) -> None:
    """Every image is nearest to its own text, but the text of the first is nearer to the image of the second."""

    class Skewed(Oracle):
        def image_vectors(self, batch: Batch) -> np.ndarray:
            vectors = super().image_vectors(batch)
            first, _, *others = vectors.copy()
            vectors[1] += 0.99 * first
            vectors[0] += 0.99 * np.sum(others, 0)
            return vectors

    result = Measurement()
    measure_retrieval(result, Skewed(collator), collator, items.captions)
    assert result.values["retrieval/image_to_text_r1"].tolist() == [1] * len(items.captions)
    assert result.values["retrieval/text_to_image_r1"].tolist() == [0] + [1] * (len(items.captions) - 1)


def test_equal_meanings_are_all_right_in_retrieval(collator: Collator, items: Items) -> None:
    """Two images of one caption: neither is a miss for the other's text."""
    split, rows = collator.split, items.captions
    examples = list(split.examples)
    examples[rows[1]] = replace(examples[rows[1]], meaning=examples[rows[0]].meaning, targets=examples[rows[0]].targets)
    twins = Collator(
        replace(split, examples=examples), collator.features, collator.tokenizer, collator.meanings, 48, 64
    )
    result = Measurement()
    measure_retrieval(result, Oracle(twins), twins, rows)
    assert all(result.means()[name] == 1 for name in RETRIEVAL)
    assert result.chance["retrieval/image_to_text_r1"] == pytest.approx((len(rows) + 2) / len(rows) ** 2)
    # Strictly, each of the two is right half of the time.
    assert result.means()["retrieval_strict/image_to_text_r1"] == pytest.approx(1 - 1 / len(rows))
    assert result.chance["retrieval_strict/image_to_text_r1"] == pytest.approx(1 / len(rows))


def test_captions_that_never_repeat_have_no_strict_variant(collator: Collator, items: Items) -> None:
    assert len({collator.split.examples[row].meaning for row in items.captions}) == len(items.captions)
    result = Measurement()
    measure_retrieval(result, Oracle(collator), collator, items.captions)
    assert result.values.keys() == set(RETRIEVAL)


def test_a_gallery_of_one_is_no_retrieval(collator: Collator, items: Items) -> None:
    result = Measurement()
    measure_retrieval(result, Oracle(collator), collator, items.captions[:1])
    assert result == Measurement()


def test_a_linear_map_joins_two_spaces_that_have_nothing_in_common(collator: Collator, items: Items) -> None:
    """Text vectors are the image vectors turned and shifted; only the map can bring them together."""
    rng = np.random.default_rng(0)
    width = len(Oracle(collator).meanings)
    turn = rng.normal(size=(width, width))

    class Turned(Oracle):
        def text_vectors(self, texts: Sequence[str]) -> np.ndarray:
            return super().text_vectors(texts) @ turn + 5

    oracle, plain, mapped = Turned(collator), Measurement(), Measurement()
    linear_map = fit_retrieval_map(oracle, collator, collator, 1000)
    measure_retrieval(plain, oracle, collator, items.captions)
    measure_retrieval(mapped, oracle, collator, items.captions, linear_map)
    assert plain.means()["retrieval/image_to_text_r1"] < 0.5
    assert mapped.means()["retrieval/image_to_text_r1"] == 1
    assert mapped.means()["retrieval/text_to_image_r1"] == 1


def test_the_map_is_fitted_on_training_captions_and_chosen_on_validation(tiny_setup: Setup) -> None:
    asked: list[tuple[str, list[str]]] = []

    class Noting(Oracle):
        def text_vectors(self, texts: Sequence[str]) -> np.ndarray:
            asked.append((self.split.name, list(texts)))
            return np.random.default_rng(len(texts)).normal(size=(len(texts), 3))

        def image_vectors(self, batch: Batch) -> np.ndarray:
            return np.ones((len(batch.ids), 2))

    train, validation = tiny_setup.collator("train"), tiny_setup.collator("validation")
    assert isinstance(fit_retrieval_map(Noting(train), train, validation, 9), LinearMap)
    wanted = [
        [c.split.examples[row].targets[0] for row in Items.first(c.split, 9).captions] for c in (train, validation)
    ]
    assert [texts for _, texts in asked] == wanted
    assert [len(texts) for texts in wanted] == [9, 9]


class Likelihood:
    """log p(caption | image): high for the own caption, but a few captions are likely whatever the image."""

    def __init__(self, collators: Sequence[Collator], glib: set[str]) -> None:
        self.examples = {one.id: one for collator in collators for one in collator.split.examples}
        self.glib = glib
        self.read_samples = 0

    def read(self, batch: Batch) -> list[str]:
        self.read_samples += len(batch.ids)
        return batch.ids

    def score(self, ids: list[str], texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        prior = np.array([-5.0 if text in self.glib else -90.0 for text in texts])
        own = np.array([[self.examples[id].targets[0] == text for text in texts] for id in ids])
        return prior + 20.0 * own, np.ones(len(texts))


def test_likelihood_retrieval_takes_off_what_is_likely_without_the_image(
    tiny_setup: Setup, collator: Collator, items: Items
) -> None:
    prior = tiny_setup.collator("train")
    glib = {collator.split.examples[row].targets[0] for row in items.captions[:3]}
    likelihood, result = Likelihood([collator, prior], glib), Measurement()
    measure_likelihood_retrieval(result, likelihood, collator, items.captions, prior)  # type: ignore[arg-type]
    means = result.means()
    assert {name.replace("retrieval/", "retrieval_pmi/") for name in RETRIEVAL} == means.keys()
    assert set(means.values()) == {1.0}
    scores, _ = likelihood.score(
        [collator.split.examples[row].id for row in items.captions],
        [collator.split.examples[row].targets[0] for row in items.captions],
    )
    assert (scores.argmax(1) < 3).all()  # without the correction every image gets a glib caption
    assert likelihood.read_samples == len(items.captions) + len(Items.first(prior.split, 64).captions)


def test_the_prior_is_the_mean_probability_over_training_images(tiny_setup: Setup, collator: Collator) -> None:
    """Spoken likelihoods of two captions that differ by image: the mean of probabilities, not of their logarithms."""
    prior, rows = tiny_setup.collator("train"), Items.first(collator.split, 2).captions

    class Two(Likelihood):
        def score(self, ids: list[str], texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
            if ids[0].startswith("test"):
                return np.array([[-10.0, -10.5], [-10.0, -10.5]]), np.ones(2)
            # The first caption: half of the images make it likely. The second: the same everywhere.
            first = np.where(np.arange(len(ids)) % 2 == 0, -10.0, -800.0)
            return np.stack([first, np.full(len(ids), -12.0)], 1), np.ones(2)

    result = Measurement()
    measure_likelihood_retrieval(result, Two([], set()), collator, rows, prior)  # type: ignore[arg-type]
    # PMI: -10 - (-10 - ln 2) = 0.69 against -10.5 + 12 = 1.5: the second wins for both images.
    assert result.values["retrieval_pmi/image_to_text_r1"].tolist() == [0, 1]


def test_shuffled_images_change_the_image_and_nothing_else(collator: Collator, items: Items) -> None:
    seer, control = Seer(collator), shuffled_image(len(collator.split.images), 0)
    plain, shuffled = Measurement(), Measurement()
    measure_captions(plain, seer, collator, items.captions)
    own = [collator.split.examples[row].image for row in items.captions]
    assert seer.shown == own
    assert plain.means()["caption/exact"] == 1
    seer.shown, asked, seer.asked = [], seer.asked, []
    measure_captions(shuffled, seer, collator, items.captions, control)
    assert all(shown != image for shown, image in zip(seer.shown, own, strict=True))
    assert sorted(seer.shown) == sorted(own)
    assert seer.asked == asked
    assert shuffled.means()["caption/exact"] < 0.2
    assert shuffled.clusters["caption/exact"].tolist() == plain.clusters["caption/exact"].tolist()


def test_without_a_query_nothing_is_asked_and_the_image_stays(collator: Collator, items: Items) -> None:
    seer, result = Seer(collator), Measurement()
    measure_captions(result, seer, collator, items.captions, no_query)
    assert result.means()["caption/exact"] == 1
    tokenizer = collator.tokenizer
    assert all(query == [tokenizer.bos_id, tokenizer.eos_id] for query in seer.asked)


@pytest.mark.parametrize("measure", [measure_vqa, measure_retrieval])
def test_controls_reach_every_measure(collator: Collator, items: Items, measure: Callable[..., None]) -> None:
    seen: list[list[int]] = []

    class Asked(Oracle):
        def choose(self, batch: Batch, candidates: Sequence[str]) -> dict[str, np.ndarray]:
            seen.extend(batch.query.tolist())
            return super().choose(batch, candidates)

        def image_vectors(self, batch: Batch) -> np.ndarray:
            seen.extend(batch.query.tolist())
            return super().image_vectors(batch)

    rows = items.vqa if measure is measure_vqa else items.captions
    measure(Measurement(), Asked(collator), collator, rows, condition=no_query)
    assert len(seen) == len(rows)
    assert all(len(query) == 2 for query in seen)


def test_batches_cover_the_rows_in_order(collator: Collator, items: Items) -> None:
    sizes, ids = [], []
    for batch in batches_of(collator, items.vqa, size=7):
        sizes.append(len(batch.ids))
        ids += batch.ids
    assert ids == [collator.split.examples[row].id for row in items.vqa]
    assert set(sizes[:-1]) == {7}
    assert 0 < sizes[-1] <= 7


def test_items_are_the_first_questions_with_candidates_and_one_caption_of_each_image() -> None:
    def example(number: int, image: int, task: str, kind: str) -> Example:
        return Example(str(number), image, task, kind, ["q"], ["a"], "m")

    examples = [
        example(0, 5, "caption", "caption"),
        example(1, 5, "vqa", "colour"),
        example(2, 5, "caption", "caption"),
        example(3, 4, "vqa", "free"),  # no candidates
        example(4, 4, "caption", "caption"),
        example(5, 4, "vqa", "colour"),
        example(6, 3, "vqa", "colour"),
        example(7, 3, "caption", "caption"),
    ]
    candidates: dict[str, Any] = {"colour": ["red"], "free": []}
    split = Split("test", np.zeros((6, 1, 1, 3), np.uint8), examples, "d", "i", candidates)
    two, all_ = Items.first(split, 2), Items.first(split, 9)
    assert (two.vqa.tolist(), two.captions.tolist()) == ([1, 5], [0, 4])
    assert (all_.vqa.tolist(), all_.captions.tolist()) == ([1, 5, 6], [0, 4, 7])


def test_open_vocabulary_questions_are_counted_apart_where_captions_are(collator: Collator) -> None:
    """They are one in 25: among the first questions there would be too few to say anything of."""
    split = collator.split
    kinds = np.array([one.kind for one in split.examples])
    named = np.isin(kinds, list(OPEN_VOCABULARY))
    asked = Items.first(split, 5, captions=2)
    np.testing.assert_array_equal(asked.vqa[named[asked.vqa]], np.flatnonzero(named)[:2])
    others = np.flatnonzero(~named & (kinds != "caption"))
    np.testing.assert_array_equal(asked.vqa[~named[asked.vqa]], others[:5])
    assert len(asked.captions) == 2


def test_every_metric_has_its_unit(collator: Collator, items: Items) -> None:
    units: dict[str, set[str]] = {}
    for metric in measured(Oracle(collator), collator, items).values:
        units.setdefault(unit_of(metric), set()).add(metric)
    assert units.keys() == {"accuracy", "recall", "CIDEr-D", "F1"}
    assert units["CIDEr-D"] == {"caption/cider_d"}
    assert units["F1"] == {"caption/slots"}
    assert units["recall"] == set(RETRIEVAL)
    assert unit_of("retrieval_pmi/image_to_text_r1") == unit_of("curve/retrieval/image_to_text_r1") == "recall"


def test_a_score_is_the_mean_over_seeds_and_items_with_the_chance_and_the_unit_of_its_metric(
    collator: Collator, items: Items
) -> None:
    right, wrong = (measured(Oracle(collator, kind), collator, items) for kind in ("right", "wrong"))
    one, two = scores_of([right], 100), scores_of([right, wrong], 100)
    assert one.keys() == two.keys() == right.values.keys()
    for metric, found in two.items():
        assert one[metric]["value"] == pytest.approx(right.means()[metric])
        assert found["value"] == pytest.approx((right.means()[metric] + wrong.means()[metric]) / 2)
        assert (one[metric]["seeds"], found["seeds"]) == (1, 2)
        assert found["n"] == len(right.values[metric])
        assert found["unit"] == unit_of(metric)
        assert found.get("chance") == right.chance.get(metric)


def test_no_questions_give_no_metric(collator: Collator) -> None:
    result = Measurement()
    measure_vqa(result, Oracle(collator), collator, np.zeros(0, np.int64))
    assert result == Measurement()


def test_a_saved_measurement_is_the_same(collator: Collator, items: Items, tmp_path: Path) -> None:
    result = measured(Oracle(collator, "constant"), collator, items)
    result.answers[3] = 'a "quoted" ünïcode 字\n'
    path = tmp_path / "new" / "test.json"
    result.save(path)
    loaded = Measurement.load(path)
    assert loaded.answers == result.answers
    assert loaded.chance == result.chance
    assert loaded.values.keys() == result.values.keys()
    for name, values in result.values.items():
        np.testing.assert_array_equal(loaded.values[name], values)
        np.testing.assert_array_equal(loaded.clusters[name], result.clusters[name])
        assert loaded.values[name].dtype == np.float64
    assert loaded.means() == result.means()
    assert [file.name for file in path.parent.iterdir()] == ["test.json"]


@pytest.mark.parametrize("content", [b"", b"\xff", b'{"values"', b"{}", b"[]", b"null", b'{"values": 3}'])
def test_a_damaged_measurement_is_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "test.json"
    path.write_bytes(content)
    for read in (Measurement.load, lambda path: Measurement.cached(path, Measurement)):
        with pytest.raises(UserError, match=r"test\.json: is damaged; remove it and run the same command again$"):
            read(path)


def test_what_was_measured_is_not_measured_again(collator: Collator, items: Items, tmp_path: Path) -> None:
    path, calls = tmp_path / "new" / "test.json", []

    def measure() -> Measurement:
        calls.append(None)
        return measured(Oracle(collator), collator, items)

    first, second = (Measurement.cached(path, measure) for _ in range(2))
    assert len(calls) == 1
    assert first.means() == second.means() == measure().means()
