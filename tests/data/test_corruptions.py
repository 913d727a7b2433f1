"""Worse pictures: the same damage for everybody, twice as much at twice the severity, and nothing else changed."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from archlab.config import DataConfig, ScenesData
from archlab.data.corruptions import CORRUPTIONS, SEVEREST, corrupted
from archlab.data.example import Dataset, Split
from archlab.data.scenes.render import label_map
from archlab.data.scenes.world import SceneConfig, sample_scenes
from archlab.data.sources import load_dataset
from archlab.errors import UserError

SCENES = DataConfig(scenes=ScenesData(train_images=2, validation_images=2, test_images=12))
SEVERITIES = (1, 2, 4, SEVEREST)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_dataset(SCENES, 64)


def damage(split: Split, kind: str, severity: int) -> float:
    """Mean squared change of a pixel."""
    worse = corrupted(split, kind, severity, SCENES).images[0:12].astype(float)
    return float(np.square(worse - split.images[0:12]).mean())


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_severer_corruption_is_more_of_the_same(dataset: Dataset, kind: str) -> None:
    found = [damage(dataset["test"], kind, severity) for severity in SEVERITIES]
    assert found[0] > 0
    assert found == sorted(found)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_corrupted_image_is_a_function_of_its_row_whichever_are_read_with_it(dataset: Dataset, kind: str) -> None:
    images = corrupted(dataset["test"], kind, 4, SCENES).images
    again = corrupted(dataset["test"], kind, 4, SCENES).images
    whole = images[0:12]
    assert whole.dtype == np.uint8
    assert np.array_equal(np.concatenate([again[0:5], again[5:12]]), whole)
    assert len(images) == 12
    assert images[12:20].shape == (0, 64, 64, 3)


def test_questions_stay_and_digests_do_not(dataset: Dataset) -> None:
    split = dataset["test"]
    made = [corrupted(split, kind, severity, SCENES) for kind in CORRUPTIONS for severity in SEVERITIES]
    assert all(one.examples == split.examples and one.candidates == split.candidates for one in made)
    assert len({one.image_digest for one in [split, *made]}) == len({one.digest for one in [split, *made]}) == 17


def test_noise_is_eight_grey_levels_per_severity(dataset: Dataset) -> None:
    grey = replace(dataset["test"], images=np.full((4, 64, 64, 3), 128, np.uint8))
    for severity in (1, 2):
        worse = corrupted(grey, "noise", severity, SCENES).images[0:4].astype(float)
        assert worse.std() == pytest.approx(8 * severity, rel=0.05)
        assert worse.mean() == pytest.approx(128, abs=0.5)


def test_an_occlusion_hides_a_growing_square_around_one_place(dataset: Dataset) -> None:
    before = dataset["test"].images[0:12]
    hidden = []
    for severity in SEVERITIES:
        after = corrupted(dataset["test"], "occlusion", severity, SCENES).images[0:12]
        changed = (after != before).any(-1)
        rows, columns = np.nonzero(changed[0])
        side = max(np.ptp(rows), np.ptp(columns)) + 1
        assert side <= round((0.04 * severity * 64 * 64) ** 0.5)
        assert changed[0].sum() > 0.8 * 0.04 * severity * 64 * 64  # a pixel may have been of that colour before
        hidden.append(changed[0])
    for smaller, larger in pairwise(hidden):
        assert (smaller & ~larger).sum() <= 0.2 * smaller.sum()


def test_another_style_leaves_the_objects_where_they_are_and_as_they_are(dataset: Dataset) -> None:
    split = dataset["test"]
    scenes = sample_scenes(12, SceneConfig(image_size=64), split="test")
    after = corrupted(split, "style", SEVEREST, SCENES).images[0:12]
    for row, scene in enumerate(scenes):
        inside = label_map(scene, 64) >= 0
        changed = np.abs(after[row].astype(int) - split.images[row : row + 1][0]).max(-1)
        assert np.quantile(changed[inside], 0.6) <= 1  # at edges and thin points the ground shines through
        assert np.quantile(changed[~inside], 0.4) > 1


def test_the_pictures_of_other_splits_are_redrawn_from_their_own_scenes(dataset: Dataset) -> None:
    for name in ("test_combinations", "test_backgrounds", "test_forms"):
        assert damage(dataset[name], "style", SEVEREST) > 0
    worded = corrupted(dataset["test_forms"], "style", 4, SCENES).images[0:12]
    assert np.array_equal(worded, corrupted(dataset["test"], "style", 4, SCENES).images[0:12])


def test_what_cannot_be_done_is_refused(dataset: Dataset) -> None:
    with pytest.raises(UserError, match="corruption 'style': redraws the objects of built-in scenes"):
        corrupted(dataset["test"], "style", 1, DataConfig(source="eurosat"))
    for kind, severity in (("fog", 1), ("noise", 0), ("noise", 9)):
        with pytest.raises(ValueError, match="of severity"):
            corrupted(dataset["test"], kind, severity, SCENES)
