"""What is asked under load: distinct descriptions of scenes, pictures of scenes, and labels to choose from.

All is drawn from the built-in world, the same in every run. Nothing here imports PyTorch: it runs on machines that only
generate the load.
"""

from __future__ import annotations

import base64
import json
from io import BytesIO
from random import Random

from PIL import Image

from archlab.data.scenes.language import Caption, Clause, Description, caption_forms, wordings
from archlab.data.scenes.lexicon import RELATION_WORDS
from archlab.data.scenes.render import render
from archlab.data.scenes.world import COLOURS, SHAPES, SIZES, SceneConfig, sample_scenes

SIDE = 512
"""Pixels of the side of a picture that is sent; models read smaller ones."""
LABELS = tuple(f"{colour} {shape}" for colour, shape in zip(COLOURS, SHAPES, strict=False))
HITS = 10
_MOST_OBJECTS = 3
_WORDINGS = wordings(8)


def captions(count: int, seed: int) -> list[str]:
    """So many different descriptions of one to three objects, in eight wordings."""
    draw, found = Random(seed), dict[str, None]()
    while len(found) < count:
        names = [
            Clause(Description(draw.choice(SIZES), draw.choice(COLOURS), draw.choice(SHAPES)))
            for _ in range(draw.randint(1, _MOST_OBJECTS))
        ]
        relation = draw.choice(list(RELATION_WORDS)) if len(names) == 2 else None
        forms = caption_forms(Caption(tuple(names), relation), _WORDINGS)
        found[forms[draw.randrange(len(forms))]] = None
    return list(found)


def pictures(count: int) -> list[bytes]:
    """So many pictures of scenes as JPEG files."""
    files = []
    for pixels in render(sample_scenes(count, SceneConfig(), split="test"), SIDE):
        file = BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def search_body(text: str) -> bytes:
    """A search by text."""
    return json.dumps({"text": text, "k": HITS}).encode()


def classify_body(picture: bytes, model: str | None = None) -> bytes:
    """A choice among `LABELS`."""
    return _image_body(picture, model, labels=LABELS)


def caption_body(picture: bytes, model: str | None = None) -> bytes:
    """A picture to be described."""
    return _image_body(picture, model)


def _image_body(picture: bytes, model: str | None, **more: object) -> bytes:
    named = {} if model is None else {"model": model}
    return json.dumps({"image": base64.b64encode(picture).decode(), **more, **named}).encode()
