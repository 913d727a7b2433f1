"""Promises about scenes: what they contain, and that they depend on seed, split and index alone."""

import itertools
import math

import pytest

from archlab.data.scenes.world import (
    BACKGROUND_STYLES,
    COLOURS,
    HELD_OUT_PAIRS,
    HELD_OUT_STYLES,
    RADIUS_RANGE,
    SHAPES,
    SPLITS,
    SceneConfig,
    sample_scenes,
)
from archlab.errors import UserError

ORDINARY = [split for split in SPLITS if split != "test_combinations"]


def pairs(scene):
    return {(one.colour, one.shape) for one in scene.objects}


def test_same_seed_gives_same_scenes():
    assert sample_scenes(20, SceneConfig(seed=3)) == sample_scenes(20, SceneConfig(seed=3))


def test_another_seed_gives_other_scenes():
    first, second = sample_scenes(20, SceneConfig(seed=3)), sample_scenes(20, SceneConfig(seed=4))
    assert not set(first) & set(second)


def test_a_long_list_begins_with_the_short_one_and_can_be_entered_anywhere():
    config = SceneConfig()
    long = sample_scenes(30, config)
    assert long[:10] == sample_scenes(10, config)
    assert long[10:] == sample_scenes(20, config, start=10)


def test_no_scene_occurs_twice_in_or_across_splits():
    scenes = [scene for split in SPLITS for scene in sample_scenes(300, SceneConfig(), split=split)]
    assert len(set(scenes)) == len(scenes)
    assert len({scene.objects for scene in scenes}) == len(scenes)


def test_held_out_pairs_cover_every_colour_and_shape_once():
    assert sorted(colour for colour, _ in HELD_OUT_PAIRS) == sorted(COLOURS)
    assert sorted(shape for _, shape in HELD_OUT_PAIRS) == sorted(SHAPES)


@pytest.mark.parametrize("split", ORDINARY)
def test_ordinary_splits_never_show_a_held_out_pair(split):
    assert not any(pairs(scene) & HELD_OUT_PAIRS for scene in sample_scenes(500, SceneConfig(), split=split))


def test_every_scene_of_test_combinations_shows_a_held_out_pair():
    scenes = sample_scenes(200, SceneConfig(), split="test_combinations")
    assert all(pairs(scene) & HELD_OUT_PAIRS for scene in scenes)
    assert set().union(*map(pairs, scenes)) >= HELD_OUT_PAIRS


def test_all_ordinary_pairs_occur():
    seen = set().union(*map(pairs, sample_scenes(1000, SceneConfig())))
    assert seen == set(itertools.product(COLOURS, SHAPES)) - HELD_OUT_PAIRS


def test_held_out_textures_occur_in_their_split_only():
    styles = {s: {one.background.style for one in sample_scenes(200, SceneConfig(), split=s)} for s in SPLITS}
    assert styles.pop("test_backgrounds") == set(HELD_OUT_STYLES)
    assert all(seen == set(BACKGROUND_STYLES) for seen in styles.values())


def test_object_counts_span_the_configured_range_evenly():
    scenes = sample_scenes(800, SceneConfig(min_objects=2, max_objects=5))
    counts = [len(scene.objects) for scene in scenes]
    assert all(0.18 < counts.count(number) / len(counts) < 0.32 for number in (2, 3, 4, 5))
    assert set(counts) == {2, 3, 4, 5}


def test_objects_lie_inside_the_picture_and_apart():
    for scene in sample_scenes(300, SceneConfig(max_objects=5)):
        for one in scene.objects:
            assert one.radius <= one.x <= 1 - one.radius
            assert one.radius <= one.y <= 1 - one.radius
        for one, other in itertools.combinations(scene.objects, 2):
            assert math.hypot(one.x - other.x, one.y - other.y) >= 0.84 * (one.radius + other.radius)


def test_no_two_objects_of_a_scene_are_called_alike():
    for scene in sample_scenes(300, SceneConfig(max_objects=5)):
        assert len({(one.size, one.colour, one.shape) for one in scene.objects}) == len(scene.objects)


def test_sizes_are_separable_by_radius():
    assert RADIUS_RANGE["large"][0] > 1.3 * RADIUS_RANGE["small"][1]
    for scene in sample_scenes(100, SceneConfig()):
        assert all((one.size == "large") == (one.radius > 0.14) for one in scene.objects)


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_size": 8},
        {"image_size": 64.0},
        {"min_objects": 0},
        {"max_objects": 9},
        {"min_objects": 4, "max_objects": 2},
        {"max_noise": -1},
        {"max_noise": "much"},
        {"max_noise": math.nan},
        {"seed": -1},
        {"seed": True},
    ],
)
def test_a_bad_setting_is_named_with_its_rule(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        SceneConfig(**wrong)


def test_an_unknown_split_is_an_error_that_lists_the_splits():
    with pytest.raises(UserError, match=r"'tset'.*test_combinations"):
        sample_scenes(1, SceneConfig(), split="tset")
