"""Scenes to pixels: antialiased shapes from signed distances, in windows around the objects.

Shapes: N scenes, n scenes of one style, M objects of one shape and window side, H and W the picture's sides, S the
window's side, 3 = RGB. While drawing, colours come before rows: NumPy is slow on short last axes.

Only + - * /, sqrt, abs, floor, min and max act on arrays. They are exactly rounded, so a picture is the same bit for
bit whichever others share its batch. Distances are in units of the object's radius, negative inside, with y up; the
formulas for the star follow Inigo Quilez, "2D distance functions".
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from archlab.data.scenes.world import Background, Scene, SceneObject

Floats = NDArray[np.float32]

CHUNK = 64  # scenes worked on together: enough to amortise NumPy's overhead, few enough to stay in the cache


def render(scenes: Sequence[Scene], image_size: int) -> NDArray[np.uint8]:
    """Draw scenes as RGB pictures, (N, H, W, 3)."""
    images = np.empty((len(scenes), image_size, image_size, 3), dtype=np.uint8)
    for start in range(0, len(scenes), CHUNK):
        chunk = scenes[start : start + CHUNK]
        canvas = _backgrounds([scene.background for scene in chunk], image_size)
        for row, _, one, (rows, columns), coverage in _covered_windows(chunk, image_size):
            window = canvas[row, :, rows, columns]  # (3, S, S)
            window += coverage * (np.array(one.rgb, dtype=np.float32)[:, None, None] - window)
        for row, scene in enumerate(chunk):
            canvas[row] += _noise(scene, image_size)
        np.clip(canvas, 0, 255, out=canvas)
        canvas += np.float32(0.5)  # the conversion below cuts off the fraction
        images[start : start + CHUNK] = canvas.astype(np.uint8).transpose(0, 2, 3, 1)
    return images


def label_maps(scenes: Sequence[Scene], image_size: int) -> NDArray[np.int8]:
    """Which object each pixel shows: its index in `scene.objects`, -1 for background; (N, H, W)."""
    labels = np.full((len(scenes), image_size, image_size), -1, dtype=np.int8)
    for start in range(0, len(scenes), CHUNK):
        for row, index, _, (rows, columns), coverage in _covered_windows(scenes[start : start + CHUNK], image_size):
            labels[start + row, rows, columns][coverage > 0.5] = index
    return labels


def label_map(scene: Scene, image_size: int) -> NDArray[np.int8]:
    """`label_maps` of one scene, (H, W)."""
    result: NDArray[np.int8] = label_maps([scene], image_size)[0]
    return result


def _covered_windows(
    scenes: Sequence[Scene], image_size: int
) -> Iterator[tuple[int, int, SceneObject, tuple[slice, slice], Floats]]:
    """For every object, in painting order: its row, its index, itself, its window in the picture and its coverage.

    Distances are computed for all objects of one shape and size at once.
    """
    groups: dict[tuple[str, int], list[tuple[int, int, SceneObject]]] = defaultdict(list)
    for row, scene in enumerate(scenes):
        for index, one in enumerate(scene.objects):
            side = min(4 * math.ceil((2 * one.radius * image_size + 4) / 4), image_size)  # few distinct sides
            groups[one.shape, side].append((row, index, one))
    windows: dict[tuple[int, int], tuple[SceneObject, tuple[slice, slice], Floats]] = {}
    for (shape, side), members in groups.items():
        corners = [_corner(one, side, image_size) for _, _, one in members]
        coverage = _coverage(shape, [one for _, _, one in members], corners, side, image_size)
        for (row, index, one), (top, left), cover in zip(members, corners, coverage, strict=True):
            windows[row, index] = (one, (slice(top, top + side), slice(left, left + side)), cover)
    for row, scene in enumerate(scenes):
        for index in range(len(scene.objects)):
            yield row, index, *windows[row, index]


def _corner(one: SceneObject, side: int, image_size: int) -> tuple[int, int]:
    """Top and left of a window of `side` pixels around an object, kept inside the picture."""
    limit = image_size - side
    top, left = (round(centre * image_size - side / 2) for centre in (one.y, one.x))
    return min(max(top, 0), limit), min(max(left, 0), limit)


def _coverage(
    shape: str, objects: list[SceneObject], corners: list[tuple[int, int]], side: int, image_size: int
) -> Floats:
    """How much of each pixel the objects cover, 0 to 1, (M, S, S)."""
    numbers = np.array(
        [
            (
                (top + 0.5 - one.y * image_size) / (one.radius * image_size),
                (left + 0.5 - one.x * image_size) / (one.radius * image_size),
                1 / (one.radius * image_size),
                math.cos(one.rotation),
                math.sin(one.rotation),
            )
            for one, (top, left) in zip(objects, corners, strict=True)
        ],
        dtype=np.float32,
    )
    top, left, step, cosine, sine = numbers.T[:, :, None, None]  # each (M, 1, 1)
    grid = np.arange(side, dtype=np.float32)
    down, right = top + grid[:, None] * step, left + grid * step  # (M, S, 1), (M, 1, S)
    distance = DISTANCES[shape](cosine * right + sine * down, sine * right - cosine * down)  # (M, S, S)
    return _unit(np.float32(0.5) - distance / step)


def _larger(first: Floats, second: Floats | np.float32) -> Floats:
    larger: Floats = np.maximum(first, second)
    return larger


def _smaller(first: Floats, second: Floats) -> Floats:
    smaller: Floats = np.minimum(first, second)
    return smaller


def _unit(values: Floats) -> Floats:
    clipped: Floats = np.clip(values, 0, 1)
    return clipped


def _circle(x: Floats, y: Floats) -> Floats:
    return np.sqrt(x * x + y * y) - np.float32(0.92)


def _square(x: Floats, y: Floats) -> Floats:
    return _larger(np.abs(x), np.abs(y)) - np.float32(0.8)


def _triangle(x: Floats, y: Floats) -> Floats:
    """Three half planes at one distance from the centre: equilateral, point up."""
    slant = np.float32(math.sqrt(0.75)) * np.abs(x) + np.float32(0.5) * y
    return _larger(slant, -y) - np.float32(0.54)


def _star(x: Floats, y: Floats) -> Floats:
    """A five-pointed star: fold the plane into one half of one point, then measure the distance to its edge."""
    cosine, sine = np.float32(math.cos(math.pi / 5)), np.float32(math.sin(math.pi / 5))
    x = np.abs(x)
    fold = np.float32(2) * _larger(cosine * x - sine * y, np.float32(0))
    x, y = x - fold * cosine, y + fold * sine
    fold = np.float32(2) * _larger(-cosine * x - sine * y, np.float32(0))
    x, y = np.abs(x + fold * cosine), y + fold * sine - np.float32(1)
    # The edge runs from the tip (0, 0) to the inner corner, which lies at 0.45 radii in the direction 36 degrees off.
    edge_x, edge_y = 0.45 * math.sin(math.pi / 5), 0.45 * math.cos(math.pi / 5) - 1
    length = math.hypot(edge_x, edge_y)
    return x * np.float32(-edge_y / length) + y * np.float32(edge_x / length)


def _cross(x: Floats, y: Floats) -> Floats:
    x, y = np.abs(x), np.abs(y)
    return _larger(_larger(x, y) - np.float32(0.95), _smaller(x, y) - np.float32(0.3))


def _ring(x: Floats, y: Floats) -> Floats:
    from_middle: Floats = np.abs(np.sqrt(x * x + y * y) - np.float32(0.73))
    return from_middle - np.float32(0.21)


def _diamond(x: Floats, y: Floats) -> Floats:
    """A tall rhombus, half as wide as high, so that no rotation within the jitter makes a square of it."""
    x, y = np.abs(x), np.abs(y)
    return x * np.float32(0.8638) + y * np.float32(0.5039) - np.float32(0.5039)


def _heart(x: Floats, y: Floats) -> Floats:
    """A square on its corner joined with a disc on each of its upper sides, lowered so that its middle is at (0, 0)."""
    x, y = np.abs(x), y + np.float32(0.12)
    square = (x + np.abs(y)) * np.float32(math.sqrt(0.5)) - np.float32(0.575)
    across, up = x - np.float32(0.4066), y - np.float32(0.4066)
    return _smaller(square, np.sqrt(across * across + up * up) - np.float32(0.575))


DISTANCES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
    "diamond": _diamond,
    "heart": _heart,
}


def _wave(phase: Floats) -> Floats:
    """A smooth wave of period 1 between 0 and 1, made of exactly rounded operations (a sine is not)."""
    triangle: Floats = np.abs(np.float32(2) * (phase - np.floor(phase)) - np.float32(1))
    return triangle * triangle * (np.float32(3) - np.float32(2) * triangle)


def _sharp(wave: Floats) -> Floats:
    return _unit(np.float32(4) * wave - np.float32(1.5))


def _plain(along: Floats, across: Floats, frequency: Floats, phase: Floats) -> Floats:
    return np.zeros(np.broadcast_shapes(along.shape, across.shape), dtype=np.float32)


def _gradient(along: Floats, across: Floats, frequency: Floats, phase: Floats) -> Floats:
    return _unit(along * np.float32(0.7) + np.float32(0.5))


def _stripes(along: Floats, across: Floats, frequency: Floats, phase: Floats) -> Floats:
    return _sharp(_wave(along * frequency + phase))


def _checker(along: Floats, across: Floats, frequency: Floats, phase: Floats) -> Floats:
    first, second = _sharp(_wave(along * frequency + phase)), _sharp(_wave(across * frequency + phase))
    return first + second - np.float32(2) * first * second


def _blobs(along: Floats, across: Floats, frequency: Floats, phase: Floats) -> Floats:
    """Three waves in directions that share no period: their sum has irregular hills."""
    total = (
        _wave(along * frequency + phase)
        + _wave((along * np.float32(0.31) + across * np.float32(0.95)) * frequency * np.float32(0.77) + phase)
        + _wave((across * np.float32(0.74) - along * np.float32(0.67)) * frequency * np.float32(1.29) + phase)
    )
    return _unit(total - np.float32(1))


def _rings(along: Floats, across: Floats, frequency: Floats, phase: Floats) -> Floats:
    return _sharp(_wave(np.sqrt(along * along + across * across) * frequency + phase))


def _waves(along: Floats, across: Floats, frequency: Floats, phase: Floats) -> Floats:
    return _sharp(_wave(along * frequency + np.float32(0.8) * _wave(across * np.float32(2) + phase) + phase))


TEXTURES: dict[str, Callable[[Floats, Floats, Floats, Floats], Floats]] = {
    "plain": _plain,
    "gradient": _gradient,
    "stripes": _stripes,
    "checker": _checker,
    "blobs": _blobs,
    "rings": _rings,
    "waves": _waves,
}


def _backgrounds(backgrounds: list[Background], image_size: int) -> Floats:
    """The textures of some scenes, (N, 3, H, W). Scenes of one style are computed together."""
    canvas = np.empty((len(backgrounds), 3, image_size, image_size), dtype=np.float32)
    centred = (np.arange(image_size, dtype=np.float32) + np.float32(0.5)) / np.float32(image_size) - np.float32(0.5)
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, background in enumerate(backgrounds):
        rows_of[background.style].append(row)
    for style, rows in rows_of.items():
        chosen = [backgrounds[row] for row in rows]
        numbers = np.array(
            [(math.cos(one.angle), math.sin(one.angle), one.frequency, one.phase) for one in chosen], dtype=np.float32
        )
        cosine, sine, frequency, phase = numbers.T[:, :, None, None]  # each (n, 1, 1)
        along = cosine * centred + sine * centred[:, None]  # (n, H, W)
        across = cosine * centred[:, None] - sine * centred  # (n, H, W)
        mix = TEXTURES[style](along, across, frequency, phase)[:, None]  # (n, 1, H, W)
        first = np.array([one.rgb for one in chosen], dtype=np.float32)[:, :, None, None]  # (n, 3, 1, 1)
        second = np.array([one.second_rgb for one in chosen], dtype=np.float32)[:, :, None, None]
        canvas[rows] = first + mix * (second - first)
    return canvas


def _noise(scene: Scene, image_size: int) -> Floats:
    """Uniform noise of the scene's amplitude, (3, H, W). Random bytes are many times cheaper than normal numbers."""
    bits = np.random.Generator(np.random.PCG64(scene.noise_seed)).bytes(image_size * image_size * 3)
    centred = np.frombuffer(bits, dtype=np.uint8).reshape(3, image_size, image_size).astype(np.float32)
    centred -= np.float32(127.5)
    centred *= np.float32(scene.noise / 127.5)
    return centred
