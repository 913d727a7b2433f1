"""What is searched under load: embeddings, by the very model that is served, of distinct descriptions of scenes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from archlab.bench.serve.workload import COLLECTION, captions
from archlab.data.features import cache_folder
from archlab.index.embedded import EmbeddedIndex
from archlab.index.protocol import CollectionSpec, Points
from archlab.progress import track
from archlab.serve.engine import Engine

_SEED = 0  # users ask for those of another one
_AT_ONCE = 500


def build_collection(engine: Engine, model: str, points: int) -> Path:
    """The folder of an index with one collection, from the cache where the same was built before.

    Args:
        engine: that embeds.
        model: its name.
        points: descriptions.
    """
    about = engine.about
    place = cache_folder() / f"load-{about.digest[:16]}-{about.backend}-{points}"
    if place.is_dir():
        return place
    partial = place.with_name(f"{place.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    texts = captions(points, _SEED)
    spec = CollectionSpec(width=about.width, model=about.digest, model_name=model)
    with EmbeddedIndex(partial) as index, track(f"embed {points} captions", points) as progress:
        collection = index.create(COLLECTION, spec)
        for first in range(0, points, _AT_ONCE):
            own = texts[first : first + _AT_ONCE]
            vectors = np.stack(list(engine.operations["embed_texts"](own)))
            ids = [f"caption-{number}" for number in range(first, first + len(own))]
            collection.upsert(Points(ids, vectors, [{"text": text} for text in own]))
            progress.advance(len(own))
        collection.optimize()
    return partial.rename(place)
