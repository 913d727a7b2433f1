"""Promises about the data set of videos: the splits of the scenes, drawn lazily, and digests that tell data apart."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from archlab.config import DataConfig, ScenesData
from archlab.data.scenes.language import HELD_OUT_WORDINGS
from archlab.data.scenes.video import render_video, sample_videos
from archlab.data.scenes.video_dataset import VideoDataConfig, build_videos
from archlab.data.scenes.world import HELD_OUT_PAIRS, HELD_OUT_STYLES
from archlab.data.sources import load_dataset
from archlab.errors import UserError

SMALL = VideoDataConfig(
    train_images=20, validation_images=6, test_images=8, questions_per_image=4, paraphrases=2, image_size=32, frames=6
)
SIZES = {"train": 20, "validation": 6, "test": 8, "test_forms": 8, "test_combinations": 8, "test_backgrounds": 8}


@pytest.fixture(scope="module")
def dataset():
    return build_videos(SMALL)


def test_videos_have_the_splits_of_the_scenes(dataset):
    assert {name: len(split.images) for name, split in dataset.splits.items()} == SIZES
    for split in dataset.splits.values():
        assert split.images[:2].shape == (2, 6, 32, 32, 3)
        assert split.images[:2].dtype == np.uint8
        assert len({one.id for one in split.examples}) == len(split.examples)
        assert {one.kind for one in split.examples} == {"motion", "event", "caption"}
        assert sum(one.task == "caption" for one in split.examples) == len(split.images)


def test_a_slice_is_drawn_as_each_video_is(dataset):
    videos = sample_videos(8, SMALL, split="test")
    drawn = dataset["test"].images[3:5]
    assert np.array_equal(drawn[0], render_video(videos[3], 32))
    assert np.array_equal(drawn[1], render_video(videos[4], 32))


def test_candidates_and_meanings_fit_together(dataset):
    for name, split in dataset.splits.items():
        for one in split.examples:
            if one.task == "vqa":
                meanings = [split.canonical_meaning[answer] for answer in split.candidates[one.kind]]
                assert meanings.count(one.meaning) == 1
                if name != "test_forms":
                    assert split.canonical_meaning[one.targets[0]] == one.meaning


def test_splits_hold_out_what_those_of_the_scenes_do():
    def looks(split):
        return [
            {(one.colour, one.shape) for track in video.tracks for one in (track.start, track.later)} & HELD_OUT_PAIRS
            for video in sample_videos(8, SMALL, split=split)
        ]

    assert all(looks("test_combinations"))
    assert not any(looks("train"))
    styles = {video.background.style for video in sample_videos(8, SMALL, split="test_backgrounds")}
    assert styles <= set(HELD_OUT_STYLES)


def test_held_out_forms_are_other_words_for_the_same(dataset):
    plain, forms = dataset["test"], dataset["test_forms"]
    assert plain.image_digest == forms.image_digest
    assert [(one.id, one.meaning) for one in plain.examples] == [(one.id, one.meaning) for one in forms.examples]
    known = {text for one in dataset["train"].examples if one.kind == "caption" for text in one.queries}
    for one in forms.examples:
        assert len(one.queries) == len(HELD_OUT_WORDINGS)
        if one.kind == "caption":
            assert not known & set(one.queries)
    assert len({one.queries[0] for one in forms.examples if one.kind == "caption"}) > 1  # turns are taken


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"image_size": 48}, {"frames": 7}, {"max_objects": 2}, {"questions_per_image": 1}]
)
def test_any_change_of_data_changes_the_digest(change, dataset):
    changed = build_videos(dataclasses.replace(SMALL, **change))
    assert changed["test"].digest != dataset["test"].digest
    assert (changed["test"].image_digest == dataset["test"].image_digest) == ("questions_per_image" in change)


def test_building_twice_gives_equal_digests_and_every_split_another(dataset):
    assert build_videos(SMALL).digest() == dataset.digest()
    assert len(set(dataset.digest().values())) == len(SIZES)


def test_the_last_video_is_part_of_the_digest(dataset):
    fewer = build_videos(dataclasses.replace(SMALL, train_images=19))
    assert fewer["train"].image_digest != dataset["train"].image_digest
    assert fewer["test"].digest == dataset["test"].digest


def test_a_changed_renderer_is_other_data(dataset, monkeypatch):
    from archlab.data.scenes import video_dataset

    monkeypatch.setattr(video_dataset, "render_video", lambda video, size: 255 - render_video(video, size))
    assert build_videos(SMALL)["test"].image_digest != dataset["test"].image_digest


def test_frames_of_the_configuration_make_the_scenes_move():
    sizes = ScenesData(train_images=6, validation_images=2, test_images=2)
    moving = load_dataset(DataConfig(scenes=sizes, frames=6), 32)
    assert moving.name == "scenes"
    assert moving["train"].images[:1].shape == (1, 6, 32, 32, 3)
    still = load_dataset(DataConfig(scenes=sizes), 32)
    assert still["train"].images[:1].shape == (1, 32, 32, 3)
    only = load_dataset(DataConfig(scenes=dataclasses.replace(sizes, kinds=["event"]), frames=6), 32)
    assert {one.kind for one in only["train"].examples} <= {"event", "caption"}
    with pytest.raises(UserError, match=r"data\.frames=3: must be at least 6 to show what happens"):
        load_dataset(DataConfig(scenes=sizes, frames=3), 32)


def test_still_scenes_are_the_data_that_committed_results_were_made_of():
    """Their digests, which results and shipped runs name, depend on nothing that videos brought."""
    still = load_dataset(DataConfig(scenes=ScenesData(train_images=8, validation_images=2, test_images=2)), 32)
    assert {name: digest[:12] for name, digest in still.digest().items()} == DIGESTS


DIGESTS = {
    "train": "5945ea9a7189",
    "validation": "969245c96e1f",
    "test": "fbd174899c5d",
    "test_forms": "a33e0f2dede3",
    "test_combinations": "5b69de4940f5",
    "test_backgrounds": "4bceaefd9eaf",
}
