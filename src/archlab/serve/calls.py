"""How a request becomes a call: who asks, may they, is there room, what do they want; then the route has its turn.

The order is that of cost: what is refused has cost a hash, and its body was never read.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Generic, TypedDict, TypeVar

import numpy as np
import orjson
from fastapi import Request
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

    def charge(self, items: int, begun: int = 0) -> None:
        """Count items against the rate limit; see `TokenBucket.take`.

        Raises:
            Problem: the key asks too fast.
        """
        if wait := self.wait(items, begun):
            raise Problem(
                problems.RATE_LIMITED, f"Key {self.id!r} asks too fast; wait {wait:.1f} seconds.", retry_after=wait
            )

    def wait(self, items: int, begun: int = 0) -> float:
        """Count items, or say after how many seconds they can be; 0: they were counted."""
        return 0.0 if self.bucket is None else self.bucket.take(items, begun)

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
        with self.service.using(named, operation, arm=arm) as model, self.asking(model, operation):
            yield model

    def asking(self, model: Model, operation: str) -> AbstractContextManager[object]:
        """Note that this model answers, in the log and as a step."""
        self.context.model = model.name
        return self.step(f"model {operation}", model=model.name)

    def step(self, name: str, **attributes: str) -> AbstractContextManager[object]:
        """A span inside that of the request, if tracing is on; without what is raised inside, which may quote it."""
        if not self.service.settings.tracing:
            return nullcontext()
        return _tracer.start_as_current_span(
            name, attributes=attributes, record_exception=False, set_status_on_exception=False
        )

    def count(self, items: int) -> None:
        """Say how many texts and images the models have to read; the first was counted with the request."""
        self.context.items = items
        self.caller.charge(items - 1, begun=1)

    async def image(self, image: str | bytes, model: Model, field: str = "image") -> np.ndarray:
        """Decode an image for a model; see `ImageReader.read`."""
        with self.step("decode image"):
            return await self.service.images.read(image, model.image_size, field, self.caller.id)


def service_of(connection: HTTPConnection) -> Service:
    """The service that a request came to."""
    service = connection.app.state.service
    assert isinstance(service, Service)
    return service


def known(scope: Scope) -> Callable[[HTTPConnection], Awaitable[Caller]]:
    """A dependency: the caller, who must have a scope.

    Raises:
        Problem: when called, without a valid key, with one that lacks the scope, or when the key asks too fast.
    """

    async def caller(connection: HTTPConnection) -> Caller:
        service, context = service_of(connection), context_of(connection.scope)
        context.audited = scope != "read"
        if service.keys is None:
            context.caller = _LOCAL
            return Caller(_LOCAL)
        shown = _shown(connection)
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


def allowed(scope: Scope) -> Callable[[Request], Awaitable[Caller]]:
    """A dependency of a request without a body: the caller, and a place among the requests in progress.

    Raises:
        Problem: when called; see `known` and `Room.taken`.
    """
    asks = known(scope)

    async def caller(request: Request) -> Caller:
        found = await asks(request)
        context_of(request.scope).held.enter_context(service_of(request).room.taken(found.id, 0))
        return found

    return caller


def _shown(connection: HTTPConnection) -> str:
    """The key of a request: a bearer token, or one of the subprotocols that a WebSocket offers; empty without one."""
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    if token and scheme.lower() == "bearer":
        return token.strip()
    offers = [one for one in connection.scope.get("subprotocols", ()) if one.startswith(_KEY_PROTOCOL)]
    return offers[0].removeprefix(_KEY_PROTOCOL) if offers else ""


def accepts(kind: type[Parsed], *, scope: Scope = "read", forms: bool | type[BaseModel] = False) -> Callable[..., Any]:
    """A dependency: the call that a request makes.

    Args:
        kind: of the body.
        scope: that the caller must have.
        forms: whether the body may be a form as well as JSON; or what a form is, where its fields are others.

    Raises:
        Problem: when called; see `known`, `Room.taken` and `bodies.read`.
    """
    asks = known(scope)
    form: type[Any] | None = kind if forms is True else forms or None

    # Neither depends on the other for FastAPI, nor yields to it: its ways to do that cost a sixth of a search.
    async def call(request: Request) -> Call[Parsed]:
        caller, service, context = await asks(request), service_of(request), context_of(request.scope)
        most, seconds = service.settings.max_body, service.settings.body_seconds
        size = bodies.announced_size(request.headers, most)
        context.held.enter_context(service.room.taken(caller.id, size))
        body = await bodies.read(request, kind, most=most, seconds=seconds, form=form)
        return Call(service, caller, body, context)

    return call


def reply(content: Any, status: int = 200) -> Response:
    """An answer as JSON; arrays of NumPy are lists."""
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), status, media_type="application/json")


def probabilities(texts: Sequence[str], values: np.ndarray) -> list[dict[str, Any]]:
    """Texts with their probabilities, the likeliest first."""
    order = np.argsort(-values, kind="stable")
    return [{"text": texts[place], "probability": float(values[place])} for place in order]
