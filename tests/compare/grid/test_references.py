"""Captions are scored against one set of references, whatever the paraphrase dial says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from archlab.compare.grid.references import with_all_references
from archlab.data.sources import load_dataset
from archlab.evaluate.captioning import cider_d
from archlab.train.setup import Setup


def at(setup: Setup, paraphrases: int) -> Setup:
    """The setup at another setting of the dial; only its data are read here."""
    scenes = replace(setup.config.data.scenes, paraphrases=paraphrases)
    data = replace(setup.config.data, scenes=scenes)
    return replace(setup, dataset=load_dataset(data, setup.encoder.image_size))


def references(setup: Setup, split: str) -> list[list[str]]:
    return [list(one.targets) for one in setup.dataset[split].examples if one.task == "caption"]


def test_a_caption_scores_the_same_at_every_setting_of_the_dial(tiny_setup: Setup) -> None:
    setups = [at(tiny_setup, k) for k in (1, 4, 32)]
    for split in ("test", "test_forms", "test_combinations"):
        sets = [references(with_all_references(one), split) for one in setups]
        assert sets[0] == sets[1] == sets[2]
    own = [references(one, "test") for one in setups]
    assert [len(one[0]) for one in own] == [1, 4, 32]
    said = [texts[0] for texts in own[0]]
    fixed = cider_d(said, references(with_all_references(setups[0]), "test"))
    assert fixed.mean() != pytest.approx(cider_d(said, own[0]).mean())  # what it would be by a run's own references


def test_only_captions_of_test_splits_get_more_forms_and_what_is_asked_stays_canonical(tiny_setup: Setup) -> None:
    plain = at(tiny_setup, 4)
    reworded = with_all_references(plain)
    for name in ("train", "validation"):
        assert reworded.dataset[name] is plain.dataset[name]
    for name in ("test", "test_forms"):
        pairs = list(zip(plain.dataset[name].examples, reworded.dataset[name].examples, strict=True))
        assert all(before.targets[0] == after.targets[0] for before, after in pairs)
        assert all(before == after for before, after in pairs if before.task == "vqa")
    held_out = zip(plain.dataset["test_forms"].examples, reworded.dataset["test_forms"].examples, strict=True)
    assert all(before == after for before, after in held_out)
