"""Promises about pictures: pixels agree with the truth, and nothing but the scene decides them."""

import itertools

import numpy as np
import pytest

from archlab.data.scenes.render import label_map, label_maps, render
from archlab.data.scenes.world import (
    BACKGROUND_STYLES,
    COLOUR_RGB,
    HELD_OUT_STYLES,
    ROTATION_JITTER,
    SHAPES,
    Background,
    Scene,
    SceneConfig,
    SceneObject,
    sample_scenes,
)

GREY = Background("plain", (90.0, 90.0, 90.0), (90.0, 90.0, 90.0), 0.0, 2.0, 0.0)


def noiseless(count, **settings):
    return sample_scenes(count, SceneConfig(max_noise=0, **settings))


def mask(shape, radius=0.2, rotation=0.0):
    one = SceneObject(shape, "red", "large", 0.5, 0.5, radius, rotation, (255.0, 0.0, 0.0))
    return label_map(Scene((one,), GREY, 0.0, 0), 64) == 0


def distances_from_objects(scene):
    """Each pixel's distance from the nearest object's disc, in pixels; negative inside."""
    middles = (np.arange(64) + 0.5) / 64
    reach = [np.hypot(middles[:, None] - one.y, middles - one.x) - 1.2 * one.radius for one in scene.objects]
    return 64 * np.min(reach, axis=0)


@pytest.mark.parametrize("size", [32, 64, 96])
def test_pictures_have_the_promised_shape_and_type(size):
    images = render(sample_scenes(3, SceneConfig()), size)
    assert images.shape == (3, size, size, 3)
    assert images.dtype == np.uint8


def test_a_picture_does_not_depend_on_its_batch():
    scenes = sample_scenes(150, SceneConfig(max_objects=5))
    together = render(scenes, 64)
    order = np.random.default_rng(0).permutation(len(scenes))
    shuffled = render([scenes[row] for row in order], 64)
    assert np.array_equal(shuffled, together[order])
    assert all(np.array_equal(render([scene], 64)[0], image) for scene, image in zip(scenes, together, strict=True))


def test_drawing_twice_gives_the_same_pixels():
    scenes = sample_scenes(20, SceneConfig())
    assert np.array_equal(render(scenes, 64), render(scenes, 64))


def test_the_noise_has_the_scenes_amplitude_and_seed():
    scene = Scene((), GREY, 20.0, 7)
    first, second = render([scene, Scene((), GREY, 20.0, 8)], 64).astype(int)
    assert abs(first.mean() - 90) < 1
    assert first.min() == 70
    assert first.max() == 110
    assert (first != second).mean() > 0.9


def test_an_objects_centre_shows_its_colour():
    scenes = noiseless(300)
    for scene, image, labels in zip(scenes, render(scenes, 64), label_maps(scenes, 64), strict=True):
        for index, one in enumerate(scene.objects):
            row, column = int(one.y * 64), int(one.x * 64)
            if one.shape != "ring" and labels[row, column] == index:
                assert np.abs(image[row, column] - np.array(one.rgb)).max() < 1.01


def test_jitter_keeps_every_colour_nearest_to_its_own_name():
    names = list(COLOUR_RGB)
    table = np.array([COLOUR_RGB[name] for name in names], dtype=float)
    objects = [one for scene in sample_scenes(600, SceneConfig()) for one in scene.objects]
    distances = np.linalg.norm(np.array([one.rgb for one in objects])[:, None] - table, axis=-1)
    nearest = [names[column] for column in distances.argmin(1)]
    assert np.mean([name == one.colour for name, one in zip(nearest, objects, strict=True)]) > 0.97


def test_label_map_agrees_with_the_pixels():
    scenes = noiseless(200)
    for scene, image, labels in zip(scenes, render(scenes, 64), label_maps(scenes, 64), strict=True):
        padded = np.pad(labels, 1, mode="edge")
        around = np.stack([padded[1 + dy : 65 + dy, 1 + dx : 65 + dx] for dy in (-1, 0, 1) for dx in (-1, 0, 1)])
        inner = (around == labels).all(0)  # away from edges, where colours blend
        for index, one in enumerate(scene.objects):
            shown = image[inner & (labels == index)].astype(float)
            assert np.abs(shown - np.array(one.rgb)).max(initial=0) < 1.01
        bare = render([Scene((), scene.background, 0.0, 0)], 64)[0]
        outside = distances_from_objects(scene) > 1
        assert np.array_equal(image[outside], bare[outside])


def test_label_maps_of_many_equal_those_of_one():
    scenes = sample_scenes(100, SceneConfig())
    assert all(
        np.array_equal(label_map(scene, 64), labels)
        for scene, labels in zip(scenes, label_maps(scenes, 64), strict=True)
    )


def test_at_least_two_thirds_of_every_object_stay_visible():
    scenes = noiseless(400, min_objects=4, max_objects=5)
    for scene, labels in zip(scenes, label_maps(scenes, 64), strict=True):
        alone = label_maps([Scene((one,), GREY, 0.0, 0) for one in scene.objects], 64)
        for index in range(len(scene.objects)):
            assert (labels == index).sum() >= 0.66 * (alone[index] == 0).sum()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_fits_its_radius_and_is_not_cut_off_by_its_window(shape):
    for rotation in (-ROTATION_JITTER, 0.0, ROTATION_JITTER):
        rows, columns = np.nonzero(mask(shape, radius=0.2, rotation=rotation))
        reach = np.hypot(rows + 0.5 - 32, columns + 0.5 - 32).max()
        assert 0.80 * 12.8 < reach < 1.16 * 12.8
        assert abs(rows.mean() - 31.5) < 2.5
        assert abs(columns.mean() - 31.5) < 1


@pytest.mark.parametrize("shape", ["circle", "square", "cross", "ring", "diamond"])
@pytest.mark.parametrize("place", [(0.5, 0.5), (0.3712, 0.6423), (0.2, 0.8)])
def test_a_symmetric_shape_is_centred_on_its_position(shape, place):
    one = SceneObject(shape, "red", "large", *place, 0.18, 0.0, (255.0, 90.0, 90.0))
    weight = render([Scene((one,), GREY, 0.0, 0)], 64)[0, ..., 0] - 90.0
    middles = np.arange(64) + 0.5
    assert np.isclose((weight.sum(0) * middles).sum() / weight.sum(), 64 * place[0], atol=0.05)
    assert np.isclose((weight.sum(1) * middles).sum() / weight.sum(), 64 * place[1], atol=0.05)


def test_shapes_differ_even_after_rotation():
    turned = {shape: [mask(shape, 0.1, turn) for turn in (-ROTATION_JITTER, 0.0, ROTATION_JITTER)] for shape in SHAPES}
    for first, second in itertools.combinations(SHAPES, 2):
        for one, other in itertools.product(turned[first], turned[second]):
            assert (one & other).sum() / (one | other).sum() < 0.87, (first, second)


def test_shapes_stand_upright():
    triangle, heart = mask("triangle"), mask("heart")
    assert triangle[:32].sum() < triangle[32:].sum()  # point up
    assert heart[:32].sum() > heart[32:].sum()  # point down
    assert np.array_equal(mask("star"), mask("star")[:, ::-1])


def test_a_positive_rotation_turns_clockwise():
    rows, columns = np.nonzero(mask("triangle", rotation=ROTATION_JITTER))
    assert columns[rows == rows.min()].mean() > 31.5


def test_edges_are_blended():
    circle = SceneObject("circle", "red", "large", 0.5, 0.5, 0.2, 0.0, (255.0, 0.0, 0.0))
    red = render([Scene((circle,), GREY, 0.0, 0)], 64)[0, ..., 0]
    assert ((red > 100) & (red < 245)).sum() > 20


def test_textures_differ_and_stay_between_their_colours():
    dark, light = (20.0, 30.0, 40.0), (80.0, 90.0, 100.0)
    scenes = [
        Scene((), Background(style, dark, light, 0.4, 3.0, 0.3), 0.0, 0)
        for style in BACKGROUND_STYLES + HELD_OUT_STYLES
    ]
    images = render(scenes, 64)
    assert (images >= np.array(dark)).all()
    assert (images <= np.array(light)).all()
    assert len({image.tobytes() for image in images}) == len(scenes)
    assert all(image.std() > 4 for image in images[1:, ..., 0])
