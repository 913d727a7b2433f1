"""Streams of the built-in world, drawn by the renderer of the still scenes, so that a model of stills can watch them.

The short videos of `data.scenes.video` are another task: they are described as a whole, with motions. Here every frame
is a still scene whose caption holds until an event changes it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from archlab.data.scenes.dataset import CAPTION_QUESTION
from archlab.data.scenes.language import Wording, caption_forms, caption_meaning, question_forms, wordings
from archlab.data.scenes.questions import scene_caption
from archlab.data.scenes.render import render
from archlab.data.scenes.world import (
    BACKGROUND_STYLES,
    CLOSENESS,
    COLOURS,
    DOMINANCE_MARGIN,
    HELD_OUT_PAIRS,
    RADIUS_RANGE,
    SHAPES,
    SIZES,
    SPLITS,
    TRAINING_PAIRS,
    Background,
    Draws,
    Scene,
    SceneConfig,
    SceneObject,
    in_painting_order,
    is_clear,
    make_object,
    sample_background,
    sample_objects,
)
from archlab.data.streams.stream import (
    Segment,
    Stream,
    StreamConfig,
    Swing,
    distraction_times,
    event_times,
    exposed,
)

MOST_DRIFT = 0.9 * DOMINANCE_MARGIN / 4
"""Of one coordinate, in picture widths: two objects may come closer by four of these before a caption gets wrong."""


@dataclass(frozen=True, slots=True)
class Mover:
    """An object around which it drifts."""

    home: SceneObject
    across: Swing
    down: Swing

    def at(self, frame: int, reach: float) -> SceneObject:
        """The object in a frame, at most `reach` from home in either direction."""
        x, y = self.home.x + reach * self.across.at(frame), self.home.y + reach * self.down.at(frame)
        return replace(self.home, x=x, y=y)


@dataclass(frozen=True, slots=True)
class Shot:
    """What is there from frame `start` on."""

    start: int
    movers: tuple[Mover, ...]
    background: Background


@dataclass(frozen=True)
class SceneFilm:
    """Draws the frames of a stream."""

    shots: tuple[Shot, ...]
    config: StreamConfig
    image_size: int
    max_noise: float
    noise_seed: int
    light: Swing

    def __call__(self, start: int, stop: int) -> NDArray[np.uint8]:
        """See `Stream.draw`."""
        images = render([self.scene(frame) for frame in range(start, stop)], self.image_size)
        return exposed(images, start, self.light, self.config.exposure)

    def scene(self, frame: int) -> Scene:
        """The truth of one frame."""
        shot = self.shots[bisect_right(self.shots, frame, key=lambda one: one.start) - 1]
        reach = self.config.drift * MOST_DRIFT
        objects = tuple(mover.at(frame, reach) for mover in shot.movers)
        return Scene(objects, shot.background, self.config.noise * self.max_noise, (self.noise_seed + frame) % 2**32)


def scene_streams(
    config: StreamConfig, split: str, count: int, *, image_size: int, paraphrases: int
) -> Iterator[Stream]:
    """Streams 0 to `count - 1` of a split: "train", "validation" or "test".

    Args:
        image_size: side of the frames in pixels.
        paraphrases: surface forms of a caption, K.
    """
    world = SceneConfig(image_size=image_size, seed=config.seed)
    for index in range(count):
        yield _sample_stream(config, world, split, index, wordings(paraphrases))


def _sample_stream(
    config: StreamConfig, world: SceneConfig, split: str, index: int, spoken: tuple[Wording, ...]
) -> Stream:
    draws = Draws(world.seed, SPLITS[split], index, 4)  # the fourth number keeps it apart from pictures and videos
    events = event_times(draws, config.frames, config.interval, config.shortest)
    distractions = distraction_times(draws, config, events)
    movers, background = _movers(draws, sample_objects(draws, world, hold_out=False)), _background(draws)
    shots = [Shot(0, movers, background)]
    for time in sorted([*events, *distractions]):
        if time in distractions or config.contrast == "high":
            background = _background(draws)
        if time in events:
            movers = _after_event(draws, world, movers, config.contrast)
        shots.append(Shot(time, movers, background))
    film = SceneFilm(tuple(shots), config, world.image_size, world.max_noise, draws.index(2**32), Swing.sample(draws))
    segments = []
    for start, stop in zip([0, *events], [*events, config.frames], strict=True):
        caption = scene_caption(film.scene(start))
        segments.append(Segment(start, stop, caption_forms(caption, spoken), caption_meaning(caption)))
    query = question_forms(CAPTION_QUESTION, spoken)[0]
    return Stream(f"{split}-stream-{index}", query, tuple(segments), film)


def _after_event(draws: Draws, world: SceneConfig, movers: tuple[Mover, ...], contrast: str) -> tuple[Mover, ...]:
    """What is there after an event: always something that another caption describes."""
    before = _meaning(movers)
    while True:
        if contrast == "high":
            after = _movers(draws, sample_objects(draws, world, hold_out=False))
        elif contrast == "medium":
            after = _with_other_object(draws, world, movers)
        else:
            after = _with_other_attribute(draws, movers)
        if _fits(after) and _meaning(after) != before:
            return tuple(sorted(after, key=lambda one: -one.home.radius))


def _with_other_object(draws: Draws, world: SceneConfig, movers: tuple[Mover, ...]) -> tuple[Mover, ...]:
    """An object more, one less, or another in the place of one; the others stay as they are."""
    ways = ["replaced"]
    ways += ["appears"] * (len(movers) < world.max_objects) + ["disappears"] * (len(movers) > world.min_objects)
    way = ways[draws.index(len(ways))]
    leaving = draws.index(len(movers)) if way != "appears" else -1
    staying = tuple(one for row, one in enumerate(movers) if row != leaving)
    if way == "disappears":
        return staying
    colour, shape = TRAINING_PAIRS[draws.index(len(TRAINING_PAIRS))]
    size = SIZES[draws.index(2)]
    radius = draws.uniform(*RADIUS_RANGE[size])
    low, high = radius + 0.01, 0.99 - radius
    centre = draws.uniform(low, high), draws.uniform(low, high)
    return staying + _movers(draws, (make_object(draws, shape, colour, size, centre, radius),))


def _with_other_attribute(draws: Draws, movers: tuple[Mover, ...]) -> tuple[Mover, ...]:
    """One object with another size, colour or shape, all else as it is."""
    row = draws.index(len(movers))
    old = movers[row].home
    name = {"size": old.size, "colour": old.colour, "shape": old.shape}
    attribute, values = (("size", SIZES), ("colour", COLOURS), ("shape", SHAPES))[draws.index(3)]
    name[attribute] = values[draws.index(len(values))]
    radius = draws.uniform(*RADIUS_RANGE[name["size"]]) if attribute == "size" else old.radius
    new = make_object(draws, name["shape"], name["colour"], name["size"], (old.x, old.y), radius)
    rgb = new.rgb if attribute == "colour" else old.rgb
    changed = replace(movers[row], home=replace(new, rotation=old.rotation, rgb=rgb))
    return (*movers[:row], changed, *movers[row + 1 :])


def _fits(movers: tuple[Mover, ...]) -> bool:
    """Whether it could be a still scene of an ordinary split: names unlike, places apart, relations beyond doubt."""
    homes = [mover.home for mover in movers]
    names = {(one.size, one.colour, one.shape) for one in homes}
    return (
        len(names) == len(homes)
        and all((one.colour, one.shape) not in HELD_OUT_PAIRS for one in homes)
        and all(one.radius + 0.01 <= place <= 0.99 - one.radius for one in homes for place in (one.x, one.y))
        and all(
            (one.x - other.x) ** 2 + (one.y - other.y) ** 2 >= (CLOSENESS * (one.radius + other.radius)) ** 2
            for row, one in enumerate(homes)
            for other in homes[:row]
        )
        and is_clear([(one.x, one.y) for one in homes])
    )


def _meaning(movers: tuple[Mover, ...]) -> str:
    objects = in_painting_order(mover.home for mover in movers)
    return caption_meaning(scene_caption(Scene(tuple(objects), _NO_BACKGROUND, 0, 0)))


_NO_BACKGROUND = Background("plain", (0, 0, 0), (0, 0, 0), 0, 1, 0)  # captions do not speak of it


def _movers(draws: Draws, objects: tuple[SceneObject, ...]) -> tuple[Mover, ...]:
    return tuple(Mover(one, Swing.sample(draws), Swing.sample(draws)) for one in objects)


def _background(draws: Draws) -> Background:
    return sample_background(draws, BACKGROUND_STYLES)
