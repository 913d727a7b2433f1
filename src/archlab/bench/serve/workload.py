"""What is asked under load: distinct descriptions of scenes, pictures of scenes, and labels to choose from.

All is drawn from the built-in world, the same in every run. Nothing here imports PyTorch: it runs on machines that only
generate the load.
"""

from __future__ import annotations

import base64
import json
from functools import cache
from io import BytesIO
from random import Random
from typing import Literal

from PIL import Image

from archlab.data.scenes.language import Caption, Clause, Description, caption_forms, wordings
from archlab.data.scenes.lexicon import RELATION_WORDS
from archlab.data.scenes.render import render
from archlab.data.scenes.world import COLOURS, SHAPES, SIZES, SceneConfig, sample_scenes

Kind = Literal["search", "popular", "classify", "caption"]
"""A search by a text that was not asked for lately, one by a text that often is, and a picture to be classified or
described."""
COLLECTION = "captions"
"""That is searched, unless another one is named."""
SIDE = 512
"""Pixels of the side of a picture that is sent; models read smaller ones."""
LABELS = tuple(f"{colour} {shape}" for colour, shape in zip(COLOURS, SHAPES, strict=False))
HITS = 10
_POPULAR = 64  # texts, which the cache keeps
_TEXTS = 20_000  # in turns, so that a cache that keeps fewer has forgotten each before it comes again
_PICTURES = 16
_SEED = 1
_MOST_OBJECTS = 3
_WORDINGS = wordings(8)


def path(kind: Kind, collection: str = COLLECTION) -> str:
    """Where the service is asked."""
    return f"/v1/{kind}" if kind in ("classify", "caption") else f"/v1/collections/{collection}/search"


@cache  # every step of load asks them again, and they take half a second
def bodies(kind: Kind, model: str | None = None) -> tuple[bytes, ...]:
    """All that is asked in turns, each a line of JSON.

    Args:
        model: that pictures are for; the default one if None. Searches name none.
    """
    if kind in ("search", "popular"):
        return tuple(map(search_body, captions(_TEXTS if kind == "search" else _POPULAR, _SEED)))
    body = classify_body if kind == "classify" else caption_body
    return tuple(body(picture, model) for picture in pictures(_PICTURES))


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
