"""The streams that are open: so many at most, and all told when the service is about to end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from archlab.serve import problems
from archlab.serve.limits import Stock
from archlab.serve.problems import Problem


class Leaving(Protocol):
    """A stream, as far as it is known here."""

    def leave(self) -> None:
        """Take no more frames, finish those that wait, and end."""
        ...


class Streams:
    """See above.

    Args:
        most: streams that are open at once.
        share: see `Stock`.
    """

    def __init__(self, most: int, share: float = 1.0) -> None:
        self._ending = False
        self._sessions: set[Leaving] = set()
        self._places = Stock("{held} streams are open, as many as allowed.", most, share)

    @property
    def open(self) -> int:
        """Streams."""
        return self._places.held

    @contextmanager
    def place(self, caller: str) -> Iterator[None]:
        """Hold a place for a stream.

        Raises:
            Problem: there is none, or the service is about to end.
        """
        if self._ending:
            raise Problem(problems.NOT_READY, "The service is about to end; connect to another one.", retry_after=1)
        self._places.check(caller, 1)
        self._places.take(caller, 1)
        try:
            yield
        finally:
            self._places.take(caller, -1)

    @contextmanager
    def watched(self, session: Leaving) -> Iterator[None]:
        """Tell a stream inside the block when the service is about to end."""
        self._sessions.add(session)
        try:
            if self._ending:  # since it got its place
                session.leave()
            yield
        finally:
            self._sessions.discard(session)

    def end(self) -> None:
        """End all streams in good order, and begin no more."""
        self._ending = True
        for session in self._sessions:
            session.leave()
