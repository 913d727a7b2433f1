"""Clips written by PyAV, whose frames say which they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np

CODECS = {".mp4": "libx264", ".mov": "libx264", ".mkv": "libx264", ".webm": "libvpx-vp9", ".avi": "mpeg4"}
STEP = 20  # grey levels from one frame to the next


def greys(count: int, height: int = 32, width: int = 32, step: int = STEP) -> np.ndarray:
    """`count` frames of one grey each, that of frame i being `step * i`; uint8 (count, height, width, 3)."""
    return np.repeat(np.arange(count, dtype=np.uint8) * step, height * width * 3).reshape(count, height, width, 3)


def write_clip(
    path: Path | Any, frames: np.ndarray, rate: int = 8, *, codec: str = "", form: str | None = None, **options: str
) -> Path:
    """Write frames (T, H, W, 3), with the codec that is usual for the file's ending.

    Args:
        options: of the encoder; `g` is the distance of keyframes.
    """
    if not codec:
        codec = CODECS[path.suffix]
    wanted = {"libx264": {"crf": "4", "preset": "ultrafast"}, "mpeg4": {"qscale": "2"}}.get(codec, {"crf": "4"})
    with av.open(path, "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate, options=wanted | options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        if codec == "mpeg4":
            stream.bit_rate = 8_000_000
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def levels(clip: np.ndarray) -> list[int]:
    """Which frame of `greys` each frame of a clip is, by its middle."""
    middle = clip[..., clip.shape[-3] // 2, clip.shape[-2] // 2, 0].astype(float)
    return [round(value / STEP) for value in np.atleast_1d(middle)]
