"""Long streams with known events: of the built-in scenes, or cut from the pictures of any data set.

stream      what a stream is, when things happen in it, and what all streams share
scenes      objects that drift, change, come and go
images      pictures of a data set, one after the other
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from archlab.config import DataConfig
from archlab.data.sources import load_dataset
from archlab.data.streams.images import image_streams
from archlab.data.streams.scenes import scene_streams
from archlab.data.streams.stream import Segment, Stream, StreamConfig
from archlab.errors import UserError

__all__ = ["Segment", "Stream", "StreamConfig", "stream_source"]

SPLITS = ("train", "validation", "test")


def stream_source(data: DataConfig, image_size: int) -> Callable[[StreamConfig, str, int], Iterator[Stream]]:
    """What gives streams of a data source, by their settings, split and number; images are opened once.

    Streams of one split share neither objects nor pictures with another's; a longer list begins with the shorter one.

    Raises:
        UserError: the data cannot be read, or are clips; when streams are asked for: the split is unknown.
    """
    if data.frames:
        raise UserError(f"data.frames={data.frames}: a stream is watched frame by frame; give runs trained on images")
    dataset = None if data.source == "scenes" else load_dataset(data, image_size)

    def streams(config: StreamConfig, split: str, count: int) -> Iterator[Stream]:
        if split not in SPLITS:
            raise UserError(f"split={split!r}: has no streams; choose one of {', '.join(SPLITS)}")
        if dataset is None:
            paraphrases = data.scenes.paraphrases
            return scene_streams(config, split, count, image_size=image_size, paraphrases=paraphrases)
        return image_streams(config, dataset[split], count)

    return streams
