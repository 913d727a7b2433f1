"""The application: `uvicorn archlab.serve.app:app`, or `archlab serve`.

Observe -> SecurityHeaders -> LoopbackOnly (without keys) -> Patience -> route -> calls.accepts -> Model
"""

import gc
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.websockets import WebSocket

import archlab
from archlab.errors import UserError
from archlab.serve import documentation, logs, openapi, problems
from archlab.serve.context import context_of
from archlab.serve.drain import Drain
from archlab.serve.errors import ServeError
from archlab.serve.middleware.headers import SecurityHeaders
from archlab.serve.middleware.loopback import LoopbackOnly
from archlab.serve.middleware.observe import Observe
from archlab.serve.middleware.patience import Patience
from archlab.serve.opening import limit_threads
from archlab.serve.problems import Problem
from archlab.serve.routes import ROUTERS
from archlab.serve.service import Service
from archlab.serve.settings import Settings

_SWITCH_SECONDS = 2e-4
"""After which a thread must give Python's lock to one that waits for it. The thread of a model needs it for moments
between computations. With Python's 5 ms it waits for tens of them: the event loop lets go of the lock again and again,
and has it back before the other is awake."""

_YOUNG_OBJECTS = 20_000
"""New objects after which the garbage collector looks through them. Those of the requests in progress are more than
Python's 700, so that it would look through them again and again, find nothing, and take a tenth of the event loop."""


def create_app(settings: Settings | None = None) -> FastAPI:
    """Make the application; its models are loaded when it starts.

    Args:
        settings: from the environment by default.

    Raises:
        UserError: a setting breaks its rule, or names what does not exist.
    """
    service = Service(settings or Settings.read())
    settings = service.settings

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        logs.configure(settings.log_format, settings.log_level)
        sys.setswitchinterval(_SWITCH_SECONDS)
        gc.set_threshold(_YOUNG_OBJECTS)
        limit_threads()
        Drain(service, settings.drain_seconds).install()
        if service.keys is None:
            structlog.get_logger().warning("no API keys: only this machine is served")
        service.start()
        yield
        await service.close()

    app = FastAPI(
        title="archlab",
        version=archlab.__version__,
        description=openapi.DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        # Its logs would hold exceptions, and metrics are Prometheus'.
        telemetry={"tracing": settings.tracing, "metrics": False, "logs": False, "auto_configure": settings.tracing},
    )
    app.state.service = service
    for router in (*ROUTERS, documentation.router):
        app.router.routes += router.routes  # `include_router` would look for a request's route in router after router
    app.openapi = openapi.describe(  # type: ignore[method-assign]
        app, has_keys=service.keys is not None, longest_deadline=settings.max_deadline_seconds
    )
    for kind in (Problem, ServeError, UserError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _answer)  # type: ignore[arg-type]  # of requests and of WebSockets
    # The one added last is the outermost.
    app.add_middleware(Patience, default=settings.deadline_seconds, longest=settings.max_deadline_seconds)
    if service.keys is None:
        app.add_middleware(LoopbackOnly)
    app.add_middleware(Observe, service=service)
    app.add_middleware(SecurityHeaders)
    return app


async def _answer(connection: HTTPConnection, error: Exception) -> Response | None:
    """The problem document of an exception; to a WebSocket that is not open yet, too."""
    context = context_of(connection.scope)
    problem = problems.noted(problems.of(error), context, error.__cause__)
    response = problem.response(context.request_id)
    if isinstance(connection, WebSocket):
        await connection.send_denial_response(response)
        return None
    return response


def __getattr__(name: str) -> Any:
    """`app` is made when a server asks for it, so that importing this module reads no settings."""
    if name != "app":
        raise AttributeError(name)
    try:
        globals()["app"] = created = create_app()
    except UserError as error:  # one line, as on our own command line
        print(f"archlab: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    return created
