"""What every peer does for a request, on our engine and our index called bare: embed the text, search, answer."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from archlab.index.embedded import EmbeddedIndex
from archlab.index.protocol import Collection
from archlab.serve.opening import Choice, open_engine
from archlab.serve.vision_engine import VisionEngine


def parse_options(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Read the command line of a peer, whose own options `parser` has; also apart: the arguments of its `Searcher`."""
    searching = ("run", "backend", "index", "collection")
    for name in (*searching, "path"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    return given, {name: getattr(given, name) for name in searching}


class Searcher:
    """A model and a copy of an index of its own: an index folder has one process.

    Args:
        run: folder of the model.
        backend: that computes.
        index: folder that is copied.
        collection: that is searched.
        threads: of PyTorch.
    """

    def __init__(self, run: str, backend: Choice, index: str, collection: str, threads: int = 1) -> None:
        torch.set_num_threads(threads)
        engine = open_engine(Path(run), backend)
        assert isinstance(engine, VisionEngine)
        self._engine = engine
        copy = Path(tempfile.mkdtemp(prefix="archlab-peer-")) / "index"
        shutil.copytree(index, copy)
        self._collection: Collection = EmbeddedIndex(copy).open(collection)

    def search(self, texts: Sequence[str], hits: int) -> list[dict[str, Any]]:
        """An answer for each text, all embedded as one batch."""
        return [
            {
                "hits": [
                    {"id": hit.id, "score": hit.score, "metadata": hit.metadata}
                    for hit in self._collection.search(vector, hits)
                ]
            }
            for vector in self._engine.embed_texts(texts)
        ]
