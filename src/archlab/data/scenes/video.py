"""Short videos of the same world: objects that move one way and to which at most one thing happens.

Times are frame numbers, from 0. An event's frame is the first frame that shows its effect: the first with an object
that appears, the first without one that disappears, the first in a new colour, at rest, or in motion. Descriptions name
an object by the colour it has at first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from archlab.data.example import Example
from archlab.data.scenes import lexicon
from archlab.data.scenes.language import (
    Caption,
    Clause,
    Question,
    Spoken,
    answer_forms,
    caption_forms,
    caption_meaning,
    caption_order,
    question_forms,
)
from archlab.data.scenes.questions import Asked, describe, refer
from archlab.data.scenes.render import render
from archlab.data.scenes.world import (
    BACKGROUND_STYLES,
    CLOSENESS,
    COLOURS,
    HELD_OUT_PAIRS,
    HELD_OUT_STYLES,
    RADIUS_RANGE,
    SPLITS,
    Background,
    Draws,
    Scene,
    SceneConfig,
    SceneObject,
    make_object,
    require_number,
    require_split,
    sample_background,
    sample_names,
)

MOTIONS: dict[str, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}
EVENTS = ("appears", "disappears", "changes colour", "stops", "starts")
FEWEST_FRAMES = 6  # of a video; an event needs frames before and after it
TRAVEL = (0.25, 0.40)  # how far an object would go in a whole video, in picture widths


@dataclass(frozen=True, slots=True)
class Track:
    """One object through time.

    Attributes:
        start: the object as it is in frame 0 (or would be, if it appears later).
        motion: a key of `MOTIONS`.
        speed: picture widths per frame while it moves.
        event: one of `EVENTS`, or None.
        event_frame: when; 0 without an event.
        later: the object's looks from the event on; differs from `start` in colour if the event changes it.
    """

    start: SceneObject
    motion: str
    speed: float
    event: str | None
    event_frame: int
    later: SceneObject

    def at(self, frame: int) -> SceneObject | None:
        """The object in a frame; None if it is not there."""
        after = frame >= self.event_frame
        if (self.event == "appears" and not after) or (self.event == "disappears" and after):
            return None
        moved = frame
        if self.event == "stops":
            moved = min(frame, self.event_frame - 1)
        elif self.event == "starts":
            moved = max(0, frame - self.event_frame + 1)
        looks = self.later if after else self.start
        right, down = MOTIONS[self.motion]
        path = self.speed * moved
        return replace(looks, x=self.start.x + right * path, y=self.start.y + down * path)


@dataclass(frozen=True, slots=True)
class Video:
    """Tracks over a background; `frames` pictures long."""

    tracks: tuple[Track, ...]
    background: Background
    noise: float
    noise_seed: int
    frames: int

    def scene(self, frame: int) -> Scene:
        """One frame as a scene; its objects are those present, in the order of the tracks."""
        objects = tuple(one for one in (track.at(frame) for track in self.tracks) if one is not None)
        return Scene(objects, self.background, self.noise, (self.noise_seed + frame) % 2**32)


@dataclass(frozen=True, kw_only=True)
class VideoConfig(SceneConfig):
    """How videos are drawn: the world's settings, at most three objects, and `frames`, the length of a video.

    Raises:
        UserError: a value breaks its rule.
    """

    max_objects: int = 3
    frames: int = 8

    def __post_init__(self) -> None:
        SceneConfig.__post_init__(self)
        require_number("max_objects", self.max_objects, 1, 3, whole=True)
        require_number("frames", self.frames, FEWEST_FRAMES, 64, whole=True)


def sample_videos(count: int, config: VideoConfig, *, split: str = "train", start: int = 0) -> list[Video]:
    """Draw videos `start` to `start + count - 1` of a split; splits hold out what `sample_scenes` holds out.

    Raises:
        UserError: the split is unknown.
    """
    require_split(split)
    return [_sample_video(config, split, index) for index in range(start, start + count)]


def render_video(video: Video, image_size: int) -> NDArray[np.uint8]:
    """Draw a video, (T, H, W, 3)."""
    return render([video.scene(frame) for frame in range(video.frames)], image_size)


def video_caption(video: Video) -> Caption:
    """The canonical caption: every object with its motion and event, large ones first, then by colour and shape."""
    tracks = sorted(video.tracks, key=lambda track: caption_order(describe(track.start)))
    return Caption(tuple(Clause(describe(track.start), track.motion, track.event) for track in tracks))


def ask_video(video: Video, draws: Draws, count: int) -> list[Asked]:
    """Up to `count` questions: how an object moves, and what happens to it if anything does."""
    first = Scene(tuple(track.start for track in video.tracks), video.background, video.noise, video.noise_seed)
    asked = []
    for track in video.tracks:
        description = refer(first, track.start, draws)
        assert description is not None, "no two objects of a video look the same"
        asked.append(Asked("motion", Question("motion", description), f"motion:{track.motion}"))
        if track.event is not None:
            asked.append(Asked("event", Question("event", description), f"event:{track.event}"))
    return [asked.pop(draws.index(len(asked))) for _ in range(min(count, len(asked)))]


def video_candidates() -> dict[str, dict[str, str]]:
    """Per kind, the canonical answers and their meaning ids."""
    tables = {"motion": lexicon.MOTION_WORDS, "event": lexicon.EVENT_WORDS}
    return {kind: {words[0]: f"{kind}:{value}" for value, words in table.items()} for kind, table in tables.items()}


def video_examples(
    videos: Sequence[Video],
    config: VideoConfig,
    *,
    split: str,
    spoken: Sequence[Spoken],
    questions: int = 2,
    start: int = 0,
) -> list[Example]:
    """Questions, then the caption, video by video. `Example.image` is the row of the video in `videos`.

    Args:
        videos: what `sample_videos` returned for the same config, split and start.
        config: the videos' config.
        split: the videos' split.
        spoken: example i is said as `spoken[i % len(spoken)]`.
        questions: most questions per video, besides the caption.
        start: index of the first video in its split.

    Raises:
        UserError: the split is unknown.
    """
    require_split(split)
    examples: list[Example] = []
    for row, video in enumerate(videos):
        index = start + row
        draws = Draws(config.seed, SPLITS[split], index, 3)
        for number, (kind, question, meaning) in enumerate(ask_video(video, draws, questions)):
            said = spoken[len(examples) % len(spoken)]
            queries, targets = question_forms(question, said.queries), answer_forms(meaning, said.targets)
            examples.append(Example(f"{split}-video-{index}-{number}", row, "vqa", kind, queries, targets, meaning))
        caption, said = video_caption(video), spoken[len(examples) % len(spoken)]
        queries, targets = question_forms(Question("caption"), said.queries), caption_forms(caption, said.targets)
        name, meaning = f"{split}-video-{index}-caption", caption_meaning(caption)
        examples.append(Example(name, row, "caption", "caption", queries, targets, meaning))
    return examples


def _sample_video(config: VideoConfig, split: str, index: int) -> Video:
    draws = Draws(config.seed, SPLITS[split], index, 2)  # the fourth number keeps it apart from the pictures' streams
    count = config.min_objects + draws.index(config.max_objects - config.min_objects + 1)
    names = sample_names(draws, count, hold_out=split == "test_combinations")
    taken = {colour for _, colour, _ in names}
    while True:
        tracks = [_sample_track(draws, name, taken, config.frames) for name in names]
        if not _collide(tracks, config.frames):
            break
    tracks.sort(key=lambda track: -track.start.radius)
    styles = HELD_OUT_STYLES if split == "test_backgrounds" else BACKGROUND_STYLES
    background = sample_background(draws, styles)
    noise = draws.uniform(0.1, 1.0) * config.max_noise
    return Video(tuple(tracks), background, noise, draws.index(2**32), config.frames)


def _sample_track(draws: Draws, name: tuple[str, str, str], taken: set[str], frames: int) -> Track:
    size, colour, shape = name
    event = EVENTS[draws.index(len(EVENTS))] if draws.uniform() < 0.6 else None
    moving = event in ("stops", "starts") or draws.uniform() < 0.72
    motion = list(MOTIONS)[draws.index(4)] if moving else "still"
    right, down = MOTIONS[motion]
    travel = draws.uniform(*TRAVEL)
    radius = draws.uniform(*RADIUS_RANGE[size])
    low, high = radius + 0.01, 0.99 - radius  # where the centre may be
    x = draws.uniform(low + travel * (right < 0), high - travel * (right > 0))
    y = draws.uniform(low + travel * (down < 0), high - travel * (down > 0))
    one = make_object(draws, shape, colour, size, (x, y), radius)
    event_frame = frames // 3 + draws.index(frames - 2 * (frames // 3) + 1) if event is not None else 0
    later = one
    if event == "changes colour":  # to one that no object has, so that every description stays unique
        free = [other for other in COLOURS if other not in taken and (other, shape) not in HELD_OUT_PAIRS]
        later = replace(
            make_object(draws, shape, free[draws.index(len(free))], size, (x, y), radius), rotation=one.rotation
        )
    return Track(one, motion, travel / (frames - 1), event, event_frame, later)


def _collide(tracks: list[Track], frames: int) -> bool:
    """Whether two objects hide much of each other in any frame."""
    for frame in range(frames):
        present = [one for one in (track.at(frame) for track in tracks) if one is not None]
        for index, one in enumerate(present):
            for other in present[:index]:
                reach = CLOSENESS * (one.radius + other.radius)
                if (one.x - other.x) ** 2 + (one.y - other.y) ** 2 < reach**2:
                    return True
    return False
