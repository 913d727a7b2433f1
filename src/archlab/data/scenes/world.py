"""Scenes of coloured shapes: what a picture contains, and how scenes are drawn at random.

Units: x and y run from 0 to 1 across the picture (x to the right, y DOWN, as in image rows); radii are fractions of the
picture's width; rotations are radians, clockwise; colours are RGB in 0..255.

Every scene has its own random stream, keyed by (seed, split, index). A scene therefore does not depend on how many
others are drawn with it, and a long list of scenes begins with the short one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np

from archlab.errors import UserError

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "diamond", "heart")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
SIZES = ("large", "small")

COLOUR_RGB: dict[str, tuple[int, int, int]] = {
    "red": (214, 30, 34),
    "orange": (245, 130, 20),
    "yellow": (245, 225, 40),
    "green": (40, 165, 55),
    "cyan": (50, 210, 215),
    "blue": (35, 75, 220),
    "purple": (130, 40, 175),
    "pink": (250, 145, 190),
}

# The gap between the two ranges keeps "small" and "large" separable; the jitter keeps them from being two templates.
RADIUS_RANGE = {"small": (0.095, 0.120), "large": (0.165, 0.210)}

# One pair per colour and per shape, so that withholding them leaves every colour and shape equally frequent.
HELD_OUT_PAIRS: frozenset[tuple[str, str]] = frozenset(
    (colour, SHAPES[(3 * index + 2) % 8]) for index, colour in enumerate(COLOURS)
)
ALL_PAIRS = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
_SORTED_HELD_OUT = tuple(sorted(HELD_OUT_PAIRS))
TRAINING_PAIRS = tuple(pair for pair in ALL_PAIRS if pair not in HELD_OUT_PAIRS)

BACKGROUND_STYLES = ("plain", "gradient", "stripes", "checker", "blobs")
HELD_OUT_STYLES = ("rings", "waves")  # only in the split "test_backgrounds"

# A number per split, so that no two splits share a random stream. "pretrain" is an endless stream for encoders.
SPLITS = {"train": 0, "validation": 1, "test": 2, "test_combinations": 3, "test_backgrounds": 4, "pretrain": 5}

ROTATION_JITTER = 0.21  # about 12 degrees: far from the 45 that would make a square look like a diamond
CENTRE_SHARE = 0.15  # share of positions drawn at the picture's centre, which a uniform draw would rarely hit
CLOSENESS = 0.85  # centres are at least this fraction of the summed radii apart: bounds how much is hidden
RELATION_MARGIN = 0.10  # a relation is asserted only if the centres differ by this much along its axis
DOMINANCE_MARGIN = 0.08  # in a scene of two, one axis clearly dominates, so that its caption's relation is certain


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One shape: its names, and the jittered numbers it is drawn with."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    rotation: float
    rgb: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Background:
    """A texture that mixes two muted colours. `frequency` is in periods per picture width."""

    style: str
    rgb: tuple[float, float, float]
    second_rgb: tuple[float, float, float]
    angle: float
    frequency: float
    phase: float


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything a picture is made from. `objects` are in painting order: a later one lies on top of an earlier one.

    `noise` is the amplitude of the uniform pixel noise in grey levels; `noise_seed` fixes it.
    """

    objects: tuple[SceneObject, ...]
    background: Background
    noise: float
    noise_seed: int


@dataclass(frozen=True, kw_only=True)
class SceneConfig:
    """How scenes are drawn.

    Attributes:
        image_size: height and width of the pictures in pixels.
        min_objects: fewest objects in a scene.
        max_objects: most objects in a scene.
        max_noise: largest amplitude of the pixel noise, in grey levels; each scene draws its own amplitude below it.
        seed: the seed from which every scene's own seed derives.

    Raises:
        UserError: a value breaks its rule.
    """

    image_size: int = 64
    min_objects: int = 1
    max_objects: int = 4
    max_noise: float = 40.0
    seed: int = 0

    def __post_init__(self) -> None:
        limits: dict[str, tuple[float, float]] = {
            "image_size": (32, 512),
            "min_objects": (1, 5),
            "max_objects": (1, 5),
            "max_noise": (0, 100),
            "seed": (0, 2**32 - 1),
        }
        for field in fields(SceneConfig):
            require_number(field.name, getattr(self, field.name), *limits[field.name], whole=field.name != "max_noise")
        if self.min_objects > self.max_objects:
            raise UserError(
                f"min_objects = {self.min_objects} exceeds max_objects = {self.max_objects}: "
                "lower min_objects or raise max_objects"
            )


def require_number(name: str, value: object, low: float, high: float, *, whole: bool) -> None:
    """Check one setting.

    Raises:
        UserError: `value` is not a number (a whole one if `whole`) from `low` to `high`.
    """
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        noun = "a whole number" if whole else "a number"
        raise UserError(f"{name} = {value!r} is not {noun} from {low:g} to {high:g}: choose one in that range")


def sample_scenes(count: int, config: SceneConfig, *, split: str = "train", start: int = 0) -> list[Scene]:
    """Draw scenes `start` to `start + count - 1` of a split.

    Scenes of "test_combinations" hold at least one of `HELD_OUT_PAIRS`; those of "test_backgrounds" use
    `HELD_OUT_STYLES`. No other split contains either.

    Raises:
        UserError: the split is unknown.
    """
    require_split(split)
    return [_sample_scene(config, split, index) for index in range(start, start + count)]


def require_split(split: str) -> None:
    """Check the name of a split.

    Raises:
        UserError: the split is unknown.
    """
    if split not in SPLITS:
        raise UserError(f"split = {split!r} is unknown: choose one of {', '.join(SPLITS)}")


class Draws:
    """Uniform numbers in [0, 1) from one stream, fetched in blocks: one NumPy call per number would dominate."""

    def __init__(self, *key: int) -> None:
        self._generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))
        self._block: list[float] = []

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """One number in [low, high)."""
        if not self._block:
            self._block = self._generator.random(64).tolist()
        return low + (high - low) * self._block.pop()

    def index(self, count: int) -> int:
        """One whole number below `count`."""
        return int(self.uniform() * count)


def _sample_scene(config: SceneConfig, split: str, index: int) -> Scene:
    draws = Draws(config.seed, SPLITS[split], index)
    objects = sample_objects(draws, config, hold_out=split == "test_combinations")
    background = sample_background(draws, HELD_OUT_STYLES if split == "test_backgrounds" else BACKGROUND_STYLES)
    noise = draws.uniform(0.1, 1.0) * config.max_noise
    return Scene(objects, background, noise, draws.index(2**32))


def sample_objects(draws: Draws, config: SceneConfig, *, hold_out: bool) -> tuple[SceneObject, ...]:
    """The objects of a scene in painting order; `hold_out` as in `sample_names`."""
    count = config.min_objects + draws.index(config.max_objects - config.min_objects + 1)
    names = sample_names(draws, count, hold_out=hold_out)
    radii = [draws.uniform(*RADIUS_RANGE[size]) for size, _, _ in names]
    centres = place(draws, radii)
    objects = [
        make_object(draws, shape, colour, size, centre, radius)
        for (size, colour, shape), radius, centre in zip(names, radii, centres, strict=True)
    ]
    return tuple(in_painting_order(objects))


def in_painting_order(objects: Iterable[SceneObject]) -> list[SceneObject]:
    """Small objects on top: a large one could hide too much of them."""
    return sorted(objects, key=lambda one: -one.radius)


def sample_names(draws: Draws, count: int, *, hold_out: bool) -> list[tuple[str, str, str]]:
    """Distinct (size, colour, shape) triples. Some scenes repeat a colour or a shape, so that counts above one occur.

    A scene of two or more in a split with held-out pairs mixes them with ordinary pairs: only the first is held out.
    """
    theme = draws.index(4)  # 0: shared colour, 1: shared shape, otherwise free
    names: list[tuple[str, str, str]] = []
    while len(names) < count:
        pairs = _SORTED_HELD_OUT if hold_out and not names else TRAINING_PAIRS
        colour, shape = pairs[draws.index(len(pairs))]
        if names and theme < 2 and draws.uniform() < 0.75:
            colour = names[0][1] if theme == 0 else colour
            shape = names[0][2] if theme == 1 else shape
            if (colour, shape) in HELD_OUT_PAIRS:
                continue
        name = (SIZES[draws.index(2)], colour, shape)
        if name not in names:
            names.append(name)
    return names


def place(draws: Draws, radii: list[float]) -> list[tuple[float, float]]:
    """Centres at which discs of these radii stay inside the picture and overlap only mildly."""
    while True:  # five objects find a place within a few attempts
        centres: list[tuple[float, float]] = []
        for radius in radii:
            for _ in range(20):
                low, high = radius + 0.01, 0.99 - radius
                if draws.uniform() < CENTRE_SHARE:
                    low, high = 0.41, 0.59
                x, y = draws.uniform(low, high), draws.uniform(low, high)
                if all(
                    (x - other_x) ** 2 + (y - other_y) ** 2 >= (CLOSENESS * (radius + other_radius)) ** 2
                    for (other_x, other_y), other_radius in zip(centres, radii, strict=False)
                ):
                    centres.append((x, y))
                    break
            else:
                break
        if len(centres) == len(radii) and is_clear(centres):
            return centres


def is_clear(centres: list[tuple[float, float]]) -> bool:
    """Whether the relation in the caption of a scene of two is beyond doubt."""
    if len(centres) != 2:
        return True
    (first_x, first_y), (second_x, second_y) = centres
    across, down = abs(first_x - second_x), abs(first_y - second_y)
    return abs(across - down) >= DOMINANCE_MARGIN and max(across, down) >= RELATION_MARGIN


def make_object(
    draws: Draws, shape: str, colour: str, size: str, centre: tuple[float, float], radius: float
) -> SceneObject:
    """An object of the given names and place, with jittered rotation and colour."""
    rotation = draws.uniform(-ROTATION_JITTER, ROTATION_JITTER)
    light = draws.uniform(0.82, 1.08)
    red, green, blue = (min(255.0, max(0.0, level * light + draws.uniform(-14, 14))) for level in COLOUR_RGB[colour])
    return SceneObject(shape, colour, size, centre[0], centre[1], radius, rotation, (red, green, blue))


def sample_background(draws: Draws, styles: tuple[str, ...]) -> Background:
    """A texture of muted colours: low saturation keeps it apart from the objects, any brightness but the brightest."""
    style = styles[draws.index(len(styles))]
    grey = draws.uniform(25, 175)
    contrast = draws.uniform(15, 55) * (1 if grey < 100 else -1)
    first, second = (
        (level + draws.uniform(-20, 20), level + draws.uniform(-20, 20), level + draws.uniform(-20, 20))
        for level in (grey, grey + contrast)
    )
    return Background(
        style, first, second, draws.uniform(0, 2 * math.pi), draws.uniform(1.5, 6.0), draws.uniform(0, 8.0)
    )
