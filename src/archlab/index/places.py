"""From the name of a place to the index that is there."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from dataclasses import asdict, dataclass
from pathlib import Path

from archlab.config import Section
from archlab.errors import UserError
from archlab.index.protocol import VectorIndex
from archlab.rules import Count, Natural

MEMORY = ":memory:"


@dataclass(frozen=True, kw_only=True)
class Spread(Section):
    """How a collection is spread over the machines of a server."""

    shards: Count = 1
    """Parts that it is split into; at least the machines that are to share it."""
    replicas: Count = 1
    """Copies of each part."""
    consistency: Natural = 0
    """Copies that must have a change before it is acknowledged; 0: the majority of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.consistency > self.replicas:
            raise UserError(f"consistency={self.consistency}: must be at most replicas={self.replicas}")

    @property
    def write_consistency(self) -> int:
        """Copies that have a change once it is acknowledged: it outlives all but one of them."""
        return self.consistency or self.replicas // 2 + 1


SINGLE = Spread()


def open_index(
    place: str, *, create: bool = True, spread: Spread = SINGLE, loop: AbstractEventLoop | None = None
) -> VectorIndex:
    """Open an index.

    Args:
        place: a folder (embedded), the http(s) URL of a Qdrant server, or ":memory:" (exact).
        create: make the folder if it is missing.
        spread: of collections that are created on a server.
        loop: that asks an embedded index in a process of its own; None: it is in this process.

    Raises:
        UserError: the folder is open elsewhere, holds something else, or is missing; or the spread breaks a rule.
    """
    if place == MEMORY:
        from archlab.index.exact import ExactIndex

        return ExactIndex()
    if is_server(place):
        from archlab.index.server import ServerIndex, ServerSettings

        return ServerIndex(ServerSettings(url=place, **asdict(spread)))

    folder = Path(place).expanduser()
    if not create and not folder.exists():
        raise UserError(f"index {folder}: does not exist; make it with 'archlab index FOLDER --out {folder}'")

    if loop is not None:
        from archlab.index.process import IsolatedIndex

        return IsolatedIndex(folder, loop)

    from archlab.index.embedded import EmbeddedIndex

    return EmbeddedIndex(folder)


def is_server(place: str) -> bool:
    """Whether a place is the URL of a server."""
    return place.startswith(("http://", "https://"))
