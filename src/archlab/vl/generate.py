"""`archlab generate RUN --image FILE [QUESTION]`: one answer about one picture."""

from __future__ import annotations

from pathlib import Path

from archlab.data.images import decode
from archlab.vl.answering import Answerer


def generate(run: Path, image: Path, question: str | None) -> None:
    """Print what the run says about an image: the answer to a question, or a caption without one.

    Raises:
        UserError: the run or the image cannot be read, or the run's arm does not speak.
    """
    answerer = Answerer.open(run)
    pairs = answerer.config.data.pairs
    pixels = decode(image, answerer.encoder.image_size, max_pixels=pairs.max_pixels, name=str(image))
    request = answerer.request(pixels[None], [question or pairs.query])
    print(answerer.readout.speak(request)[0])
