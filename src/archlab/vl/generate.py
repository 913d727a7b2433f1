"""`archlab generate RUN --image FILE [QUESTION]`: one answer about one picture or clip."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from archlab.data.clips import ClipReader, is_clip
from archlab.data.images import SUFFIXES, FileImage, decode
from archlab.errors import UserError
from archlab.vl.answering import Answerer


def generate(run: Path, image: Path, question: str | None) -> None:
    """Print what the run says about an image or a clip: the answer to a question, or a caption without one.

    Raises:
        UserError: the run or the image cannot be read, the run reads images and is given a clip, or its arm does not
            speak.
    """
    answerer = Answerer.open(run)
    request = answerer.request(_pixels(answerer, image)[None], [question or answerer.config.data.pairs.query])
    print(answerer.readout.speak(request)[0])


def _pixels(answerer: Answerer, path: Path) -> np.ndarray:
    """The file as the run reads it: (H, W, 3), or (T, H, W, 3)."""
    size, frames, pairs = answerer.encoder.image_size, answerer.encoder.clip_frames, answerer.config.data.pairs
    if frames:
        return ClipReader(size, frames, pairs.max_pixels, pairs.max_seconds).read(FileImage(path))
    if is_clip(path) and path.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"--image {path}: is a clip, and this run was trained on images; give one trained with data.frames, or put "
            f"the clip into words frame by frame: archlab watch RUN {path}"
        )
    return decode(path, size, max_pixels=pairs.max_pixels, name=str(path))
