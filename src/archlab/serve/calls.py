"""How a request becomes a call: who asks, may they, is there room, what do they want; then the route has its turn.

The order is that of cost: what is refused has cost a hash, and its body was never read.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypedDict, TypeVar

import numpy as np
import orjson
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from opentelemetry import trace
from pydantic import BaseModel
from starlette.requests import HTTPConnection
from starlette.responses import Response

from archlab.serve import bodies, problems
from archlab.serve.auth import ApiKey, KeyFile, Scope
from archlab.serve.context import RequestContext, context_of
from archlab.serve.engine import Operation
from archlab.serve.limits import TokenBucket
from archlab.serve.model import Model
from archlab.serve.problems import Problem
from archlab.serve.service import Service

Parsed = TypeVar("Parsed", bound=BaseModel)
_LOCAL = "local"
PROTOCOL, _KEY_PROTOCOL = "archlab.v1", "archlab.key."
"""Subprotocols of a WebSocket: the one that is spoken, and the prefix of a key, as browsers can send no headers."""
_tracer = trace.get_tracer("archlab")  # does nothing until tracing is set up
_bearer = HTTPBearer(auto_error=False, scheme_name="key", description="A key made by `archlab keys create`.")


class Patience(TypedDict):
    """How long a model may take, and for whom."""

    deadline: float
    caller: str


@dataclass(slots=True)
class Caller:
    """Who asks.

    Attributes:
        id: of the API key; "local" without keys.
        bucket: what the rate limit leaves; None: there is no limit.
        key: its entry.
    """

    id: str
    bucket: TokenBucket | None = None
    key: ApiKey | None = None

    def charge(self, items: int) -> None:
        """Count items against the rate limit.

        Raises:
            Problem: the key asks too fast.
        """
        if wait := self.wait(items):
            raise Problem(
                problems.RATE_LIMITED, f"Key {self.id!r} asks too fast; wait {wait:.1f} seconds.", retry_after=wait
            )

    def wait(self, items: int) -> float:
        """Count items, or say after how many seconds they can be; 0: they were counted."""
        return 0.0 if self.bucket is None else self.bucket.take(items)

    def known(self, keys: KeyFile | None) -> bool:
        """Whether the key is still what it was when it was shown."""
        return self.key is None or (keys is not None and keys.holds(self.key))


@dataclass(slots=True)
class Call(Generic[Parsed]):
    """A request whose caller is known and whose body keeps its rules."""

    service: Service
    caller: Caller
    body: Parsed
    context: RequestContext

    @property
    def patience(self) -> Patience:
        """For the methods of a model."""
        return {"deadline": self.context.deadline, "caller": self.caller.id}

    @contextmanager
    def using(self, operation: Operation, *, arm: str | None = None) -> Iterator[Model]:
        """The model that the body names, or the default one; see `Service.using`."""
        named = getattr(self.body, "model", None)
        with self.service.using(named, operation, arm=arm) as model, self.noted(model, operation):
            yield model

    @contextmanager
    def noted(self, model: Model, operation: Operation) -> Iterator[None]:
        """Name the model in the record of the request, and its work inside the block in the trace."""
        self.context.model = model.name
        with _tracer.start_as_current_span(f"model {operation}", attributes={"model": model.name}):
            yield

    def count(self, items: int) -> None:
        """Say how many texts and images are asked about; the first was counted with the request."""
        self.context.items = items
        self.caller.charge(items - 1)

    async def image(self, image: str | bytes, model: Model, field: str = "image") -> np.ndarray:
        """Decode an image for a model; see `ImageReader.read`."""
        with _tracer.start_as_current_span("decode image"):
            return await self.service.images.read(image, model.image_size, field)


def service_of(connection: HTTPConnection) -> Service:
    """The service that a request came to."""
    service = connection.app.state.service
    assert isinstance(service, Service)
    return service


def allowed(scope: Scope) -> Callable[..., Awaitable[Caller]]:
    """A dependency: the caller, who must have a scope.

    Raises:
        Problem: when called, without a valid key, with one that lacks the scope, or when the key asks too fast.
    """

    async def caller(
        connection: HTTPConnection, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
    ) -> Caller:
        service, context = service_of(connection), context_of(connection.scope)
        context.audited = scope != "read"
        if service.keys is None:
            context.caller = _LOCAL
            return Caller(_LOCAL)
        shown = given.credentials if given else _offered(connection)
        key = service.keys.find(shown) if shown else None
        if key is None:
            context.audited = True
            raise Problem(
                problems.UNAUTHENTICATED,
                "The key is not valid." if shown else "Send a key in the header 'Authorization: Bearer KEY'.",
                headers={"WWW-Authenticate": "Bearer"},
            )
        context.caller = key.id
        if scope not in key.scopes:
            context.audited = True
            raise Problem(problems.FORBIDDEN, f"Key {key.id!r} has {', '.join(key.scopes)}; this needs {scope!r}.")
        found = Caller(key.id, service.bucket(key), key)
        found.charge(1)
        return found

    return caller


def _offered(connection: HTTPConnection) -> str:
    """The key among the subprotocols that a WebSocket offers; empty without one."""
    offers = [one for one in connection.scope.get("subprotocols", ()) if one.startswith(_KEY_PROTOCOL)]
    return offers[0].removeprefix(_KEY_PROTOCOL) if offers else ""


def accepts(kind: type[Parsed], *, scope: Scope = "read", forms: bool = False) -> Callable[..., Any]:
    """A dependency: the call that a request makes.

    Args:
        kind: of the body.
        scope: that the caller must have.
        forms: whether the body may be a form as well as JSON.

    Raises:
        Problem: when called; see `allowed`, `Room.taken` and `bodies.read`.
    """

    async def call(request: Request, caller: Annotated[Caller, Depends(allowed(scope))]) -> AsyncIterator[Call[Parsed]]:
        service = service_of(request)
        most = service.settings.max_body
        with service.room.taken(bodies.announced_size(request.headers, most)):
            seconds = service.settings.body_seconds
            body = await bodies.read(request, kind, most=most, seconds=seconds, forms=forms)
            yield Call(service, caller, body, context_of(request.scope))

    return call


def reply(content: Any, status: int = 200) -> Response:
    """An answer as JSON; arrays of NumPy are lists."""
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), status, media_type="application/json")


def probabilities(texts: Sequence[str], values: np.ndarray) -> list[dict[str, Any]]:
    """Texts with their probabilities, the likeliest first."""
    order = np.argsort(-values, kind="stable")
    return [{"text": texts[place], "probability": float(values[place])} for place in order]
