"""`archlab index` and `archlab search`: a folder of images, searched by text or image from the shell."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from archlab.config import PairsData
from archlab.data.images import decode
from archlab.errors import UserError
from archlab.index.embedder import Embedder
from archlab.index.filters import parse_all
from archlab.index.images import Source, index_images, open_mirror
from archlab.index.places import Spread, open_index
from archlab.index.protocol import Collection, Hit, VectorIndex, checked_name, same_model

_SHOWN_PROBLEMS = 5


def index_command(
    place: Path,
    *,
    model: str | None,
    out: str,
    collection: str | None,
    query: str | None,
    image_column: str | None,
    spread: Spread,
) -> None:
    """Embed the images of a source into a collection and print what was done.

    Args:
        place: see `data.pairs.gallery.pictures`; `image_column` likewise.
        model: see `Embedder.open`.
        out: see `places.open_index`; `spread` likewise.
        collection: its name; that of the folder if not given.
        query: what the model is asked about every image; for a description if not given.

    Raises:
        UserError: the source, the model or the index cannot be used.
    """
    name = checked_name(collection or _name_of(place))
    source = Source.read(place, image_column)
    embedder = Embedder.open(model)
    with open_index(out, spread=spread) as index:
        mirror = open_mirror(index, name, source, embedder, query or embedder.default_query)
        done = index_images(source, mirror, embedder, max_pixels=PairsData().max_pixels)
        with Console(stderr=True).status(f"{name}: building the graph"):
            mirror.optimize()
        for line in done.skipped[:_SHOWN_PROBLEMS]:
            Console(stderr=True).print(f"skipped: {line}", markup=False, highlight=False, soft_wrap=True)
        parts = {
            "embedded": done.embedded,
            "with new metadata": done.described,
            "unchanged": done.unchanged,
            "removed": done.removed,
            "skipped": len(done.skipped),
        }
        said = ", ".join(f"{count} {what}" for what, count in parts.items() if count)
        print(f"collection {name}: {mirror.count()} images ({said}) in {out}")


def search_command(
    text: str | None,
    *,
    image: Path | None,
    k: int,
    where: Sequence[str],
    place: str,
    collection: str | None,
    model: str | None,
    as_json: bool,
) -> None:
    """Print the points of a collection that are nearest to a text or an image.

    Args:
        where: conditions that must all hold; see `filters.parse`.
        place: see `places.open_index`.
        collection: its name; may be left out where there is one.
        model: see `Embedder.open`; the collection's own if not given.

    Raises:
        UserError: the index, the collection or the model cannot be used, or a condition cannot be read.
    """
    conditions = parse_all(where)
    with open_index(place, create=False) as index:
        found = _the_collection(index, place, collection)
        embedder = Embedder.open(model or found.spec.model_name or None)
        same_model(found, embedder.digest, embedder.name)
        if image is not None:
            pixels = decode(image, embedder.image_size, max_pixels=PairsData().max_pixels)
            vector = embedder.images(pixels[None], found.spec.query or embedder.default_query)[0]
        else:
            assert text is not None
            vector = embedder.texts([text])[0]
        hits = found.search(np.asarray(vector), k, conditions)
    if as_json:
        print(json.dumps(_as_json(found, hits), ensure_ascii=False, indent=2))
    else:
        _print_table(found, hits)


def _the_collection(index: VectorIndex, place: str, name: str | None) -> Collection:
    if name is not None:
        return index.open(name)
    names = index.names()
    if len(names) != 1:
        listed = f"holds {', '.join(names)}; name one with --collection" if names else "is empty; run 'archlab index'"
        raise UserError(f"index {place}: {listed}")
    return index.open(names[0])


def _as_json(collection: Collection, hits: Sequence[Hit]) -> dict[str, Any]:
    return {
        "collection": collection.name,
        "hits": [{"id": hit.id, "score": round(hit.score, 6), "metadata": hit.metadata} for hit in hits],
    }


def _print_table(collection: Collection, hits: Sequence[Hit]) -> None:
    if not hits:
        print(f"collection {collection.name}: nothing found")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column(collection.name, overflow="fold")
    table.add_column("metadata", overflow="fold")
    for hit in hits:
        shown = ", ".join(f"{name}={_shown(value)}" for name, value in hit.metadata.items() if name[:1] != "_")
        table.add_row(f"{hit.score:.3f}", Text(hit.id), Text(shown))
    Console().print(table)


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _name_of(place: Path) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", place.resolve().stem).strip("-._")
    return name[:64] or "images"
