"""The data set of videos: what moves and what happens, as the splits every trainer reads.

Videos are drawn when they are asked for: those of a split would fill gigabytes. Otherwise all is as in
`data.scenes.dataset`: splits hold out the same, and the paraphrase dial changes texts alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from archlab.data.example import Dataset
from archlab.data.scenes.dataset import HELD_OUT_TURNS, SceneDataConfig, make_split
from archlab.data.scenes.video import (
    Video,
    VideoConfig,
    render_video,
    sample_videos,
    video_candidates,
    video_examples,
)

_HASHED = 4  # videos whose pixels are hashed: a changed renderer changes all


@dataclass(frozen=True, kw_only=True)
class VideoDataConfig(VideoConfig, SceneDataConfig):
    """The world, how long videos are, and how much of it to ask about; "images" are videos here."""

    def __post_init__(self) -> None:
        VideoConfig.__post_init__(self)
        SceneDataConfig.__post_init__(self)


class LazyVideos:
    """The `Images` protocol over videos: a slice is drawn when it is asked for; (n, T, H, W, 3)."""

    def __init__(self, videos: Sequence[Video], image_size: int) -> None:
        self.videos, self.image_size = videos, image_size

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, rows: slice) -> np.ndarray:
        return np.stack([render_video(video, self.image_size) for video in self.videos[rows]])

    def digest(self) -> str:
        """Hash of all that the pixels depend on."""
        state = hashlib.sha256(self[:_HASHED].tobytes())
        for video in self.videos:
            state.update(repr(video).encode())
        return state.hexdigest()


def build_videos(config: VideoDataConfig) -> Dataset:
    """Build every split; they are those of `build_scenes`."""
    answers, spoken = video_candidates(), [config.spoken]
    splits = {}
    for name, count in config.sizes.items():
        videos = sample_videos(count, config, split=name)
        images = LazyVideos(videos, config.image_size)
        digest = images.digest()
        for made, turns in ((name, spoken), *([("test_forms", HELD_OUT_TURNS)] if name == "test" else [])):
            examples = video_examples(videos, config, split=name, spoken=turns, questions=config.questions_per_image)
            splits[made] = make_split(made, images, digest, examples, answers, config)
    return Dataset("scenes", splits)
