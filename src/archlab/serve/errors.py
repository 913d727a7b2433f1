"""Why the service did not answer although the request was right; what the caller can mend is a `UserError`."""

from __future__ import annotations


class ServeError(Exception):
    """A request that was not answered.

    Args:
        message: for the caller; it holds nothing of the inside.
        retry_after: seconds after which to ask again; None: asking again is of no use.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Overloaded(ServeError):
    """The queue has no room for all items of the request."""


class Expired(ServeError):
    """The deadline passed before there was an answer."""


class NotReady(ServeError):
    """The model is being loaded or drained."""


class EngineFailed(ServeError):
    """The engine raised; what it raised is the `__cause__`, for the log alone."""
