"""Streams cut from pictures with texts: a segment shows pictures of one meaning, through a camera that is not still."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from archlab.data.example import Example, Split
from archlab.data.scenes.world import SPLITS, Draws
from archlab.data.streams.stream import Segment, Stream, StreamConfig, Swing, distraction_times, event_times, exposed
from archlab.errors import UserError

MOST_PAN = 3  # pixels
MOST_NOISE = 8.0  # standard deviation, in grey levels
_CHOICES = 16  # pictures among which contrast picks the most or the least similar one
_THUMBNAIL = 8  # pixels


class Album:
    """The pictures of a split that answer one query, and what they mean.

    Args:
        split: where the pictures are; the query that most of its examples ask is the one that streams ask, a question
            before a caption.

    Raises:
        UserError: they have a single meaning.
    """

    def __init__(self, split: Split) -> None:
        self.split = split
        queries = Counter((example.task == "caption", example.queries[0]) for example in split.examples)
        _, self.query = min(queries, key=lambda asked: (-queries[asked], asked))
        rows: dict[int, Example] = {}
        for example in split.examples:
            if example.queries[0] == self.query:
                rows.setdefault(example.image, example)
        self.examples: Sequence[Example] = list(rows.values())
        self.by_meaning: dict[str, list[Example]] = {}
        for example in self.examples:
            self.by_meaning.setdefault(example.meaning, []).append(example)
        if len(self.by_meaning) < 2:
            raise UserError(
                f"streams of the {split.name} split: all answers to {self.query!r} mean the same; "
                f"events need at least two meanings"
            )
        self._thumbnails: dict[int, NDArray[np.float64]] = {}

    def picture(self, example: Example) -> NDArray[np.uint8]:
        """uint8 (H, W, 3)."""
        image: NDArray[np.uint8] = self.split.images[example.image : example.image + 1][0]
        return image

    def another(self, draws: Draws, now: Example) -> Example:
        """Another picture of the same meaning; the same one where there is no other."""
        alike = self.by_meaning[now.meaning]
        return alike[draws.index(len(alike))]

    def following(self, draws: Draws, now: Example, contrast: str) -> Example:
        """A picture of another meaning: the most or the least similar one of several, or any."""
        others = [meaning for meaning in self.by_meaning if meaning != now.meaning]
        found = []
        for _ in range(_CHOICES if contrast != "medium" else 1):
            alike = self.by_meaning[others[draws.index(len(others))]]
            found.append(alike[draws.index(len(alike))])
        distances = [float(np.square(self._thumbnail(one) - self._thumbnail(now)).sum()) for one in found]
        return found[int(np.argmin(distances) if contrast == "low" else np.argmax(distances))]

    def _thumbnail(self, example: Example) -> NDArray[np.float64]:
        """A picture averaged to a few pixels, (n, n, 3)."""
        if example.image not in self._thumbnails:
            picture = self.picture(example)
            side = picture.shape[0] // _THUMBNAIL * _THUMBNAIL
            blocks = picture[:side, :side].reshape(_THUMBNAIL, side // _THUMBNAIL, _THUMBNAIL, side // _THUMBNAIL, 3)
            self._thumbnails[example.image] = blocks.mean((1, 3))
        return self._thumbnails[example.image]


@dataclass(frozen=True)
class ImageFilm:
    """Draws the frames of a stream: pan, exposure and noise over the picture of the moment.

    Attributes:
        starts: first frames of the pictures. shown: the pictures.
        key: of the noise.
    """

    album: Album
    starts: tuple[int, ...]
    shown: tuple[Example, ...]
    config: StreamConfig
    key: tuple[int, ...]
    across: Swing
    down: Swing
    light: Swing

    def __call__(self, start: int, stop: int) -> NDArray[np.uint8]:
        """See `Stream.draw`."""
        frames = np.stack([self._panned(frame) for frame in range(start, stop)])
        frames = exposed(frames, start, self.light, self.config.exposure)
        scale = self.config.noise * MOST_NOISE
        noise = [
            np.random.default_rng([*self.key, frame]).normal(0, 1, frames.shape[1:]) for frame in range(start, stop)
        ]
        noisy: NDArray[np.uint8] = np.clip(frames + scale * np.stack(noise) + 0.5, 0, 255).astype(np.uint8)
        return noisy

    def _panned(self, frame: int) -> NDArray[np.uint8]:
        picture = self._pictures[bisect_right(self.starts, frame) - 1]
        reach = MOST_PAN * self.config.drift
        dx, dy = (round(reach * swing.at(frame)) + MOST_PAN for swing in (self.across, self.down))
        padded = np.pad(picture, ((MOST_PAN, MOST_PAN), (MOST_PAN, MOST_PAN), (0, 0)), mode="edge")
        return padded[dy : dy + picture.shape[0], dx : dx + picture.shape[1]]

    @cached_property
    def _pictures(self) -> list[NDArray[np.uint8]]:
        return [self.album.picture(example) for example in self.shown]


def image_streams(config: StreamConfig, split: Split, count: int) -> Iterator[Stream]:
    """Streams 0 to `count - 1` cut from the pictures of a split.

    Raises:
        UserError: the pictures have a single meaning.
    """
    album = Album(split)
    for index in range(count):
        yield _sample_stream(config, album, index)


def _sample_stream(config: StreamConfig, album: Album, index: int) -> Stream:
    key = (config.seed, SPLITS.get(album.split.name, len(SPLITS)), index, 5)
    draws = Draws(*key)
    events = event_times(draws, config.frames, config.interval, config.shortest)
    distractions = distraction_times(draws, config, events)
    shown = [album.examples[draws.index(len(album.examples))]]
    segments: list[Segment] = []
    starts = [0, *sorted([*events, *distractions])]
    for start in starts[1:]:
        if start in events:
            shown.append(album.following(draws, shown[-1], config.contrast))
        else:
            shown.append(album.another(draws, shown[-1]))
    for start, stop in zip([0, *events], [*events, config.frames], strict=True):
        example = shown[starts.index(start)]
        segments.append(Segment(start, stop, example.targets, example.meaning))
    film = ImageFilm(
        album, tuple(starts), tuple(shown), config, key, Swing.sample(draws), Swing.sample(draws), Swing.sample(draws)
    )
    return Stream(f"{album.split.name}-stream-{index}", album.query, tuple(segments), film)
