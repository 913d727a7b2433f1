"""From the name of a place to the index that is there."""

from __future__ import annotations

from pathlib import Path

from archlab.errors import UserError
from archlab.index.protocol import VectorIndex

MEMORY = ":memory:"


def open_index(place: str, *, create: bool = True, shards: int = 1, replicas: int = 1) -> VectorIndex:
    """Open an index.

    Args:
        place: a folder (embedded), the http(s) URL of a Qdrant server, or ":memory:" (exact).
        create: make the folder if it is missing.
        shards: see `server.ServerSettings`; for collections that are created on a server.
        replicas: likewise.

    Raises:
        UserError: the folder is open elsewhere, holds something else, or is missing.
    """
    if place == MEMORY:
        from archlab.index.exact import ExactIndex

        return ExactIndex()
    if is_server(place):
        from archlab.index.server import ServerIndex, ServerSettings

        return ServerIndex(ServerSettings(url=place, shards=shards, replicas=replicas))

    folder = Path(place).expanduser()
    if not create and not folder.exists():
        raise UserError(f"index {folder}: does not exist; make it with 'archlab index FOLDER --out {folder}'")

    from archlab.index.embedded import EmbeddedIndex

    return EmbeddedIndex(folder)


def is_server(place: str) -> bool:
    """Whether a place is the URL of a server."""
    return place.startswith(("http://", "https://"))
