"""What is known about one request while it is handled, for its log record, its metrics and its answer."""

from contextlib import ExitStack
from dataclasses import dataclass, field

from starlette.requests import HTTPConnection
from starlette.types import Scope

_KEY = "archlab.context"


@dataclass(slots=True)
class RequestContext:
    """Filled in along the way from the outermost middleware to the route.

    Attributes:
        request_id: the caller's `X-Request-Id`, or a new one.
        arrived: when the request came, in seconds of the event loop's clock.
        deadline: when nobody waits for the answer any more, by the same clock.
        caller: id of the API key.
        model: that answered.
        items: texts and images asked about.
        problem: slug of the problem that was answered.
        audited: whether this request belongs into the audit log.
        held: what is given back when the request is over, its answer sent.
    """

    request_id: str
    arrived: float
    deadline: float = float("inf")
    caller: str = ""
    model: str = ""
    items: int = 0
    problem: str = ""
    audited: bool = False
    held: ExitStack = field(default_factory=ExitStack)

    def attach(self, scope: Scope) -> None:
        """Let everything that handles this request find it."""
        scope[_KEY] = self


def context_of(source: Scope | HTTPConnection) -> RequestContext:
    """The context of a request that passed `middleware.Observe`."""
    context = source[_KEY]
    assert isinstance(context, RequestContext)
    return context
