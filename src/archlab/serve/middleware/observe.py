"""The outermost middleware: every request gets an id, a log record, metrics and, whatever happens, an answer."""

import re
import secrets
import time
from asyncio import get_running_loop

import structlog
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from archlab.serve import problems
from archlab.serve.context import RequestContext
from archlab.serve.metrics import METHODS
from archlab.serve.problems import Problem
from archlab.serve.service import Service

REQUEST_ID = "X-Request-Id"
_VALID_ID = re.compile(r"[\w.:-]{1,64}", re.ASCII)
_CLIENT_LEFT = 499  # as nginx logs it; nobody receives it


class Observe:
    """See above.

    Args:
        app: the next one.
        service: whose metrics and logs are written.
    """

    def __init__(self, app: ASGIApp, *, service: Service) -> None:
        self._app, self._service, self._metrics = app, service, service.metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        asked = Headers(scope=scope).get(REQUEST_ID.lower(), "")
        # An id of the caller's goes into logs, so it must not hold what could be mistaken for another record.
        context = RequestContext(
            asked if _VALID_ID.fullmatch(asked) else secrets.token_hex(8), arrived=get_running_loop().time()
        )
        context.attach(scope)
        if scope["type"] == "websocket":
            await self._socket(scope, receive, send, context)
            return
        started, status, size = time.perf_counter(), 0, 0

        async def answer(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (REQUEST_ID.lower().encode(), context.request_id.encode())]
                if self._service.draining:  # the next request of this client goes to another instance
                    message["headers"].append((b"connection", b"close"))
            elif message["type"] == "http.response.body":
                size += len(message.get("body", b""))
            await send(message)

        self._metrics.in_flight.inc()
        try:
            await self._app(scope, receive, answer)
        except ClientDisconnect:
            pass
        except Exception:
            # Written down here and not raised any further: the traceback is for the log alone.
            structlog.get_logger().exception("defect", request_id=context.request_id, path=scope["path"])
            context.problem = problems.INTERNAL.slug
            if not status:
                detail = "The service has a defect; its log has more under this request id."
                await Problem(problems.INTERNAL, detail).response(context.request_id)(scope, receive, answer)
        finally:
            context.held.close()
            self._metrics.in_flight.dec()
            self._record(scope, context, status or _CLIENT_LEFT, size, time.perf_counter() - started)

    async def _socket(self, scope: Scope, receive: Receive, send: Send, context: RequestContext) -> None:
        """A stream counts and logs by itself; one that is refused is a request like others."""
        started, status = time.perf_counter(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "websocket.http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (REQUEST_ID.lower().encode(), context.request_id.encode())]
            await send(message)

        await self._app(scope, receive, answer)
        if status:
            self._record(scope, context, status, 0, time.perf_counter() - started)

    def _record(self, scope: Scope, context: RequestContext, status: int, size: int, seconds: float) -> None:
        method = scope.get("method", "GET")  # of a WebSocket it is always GET
        method = method if method in METHODS else "OTHER"
        route = getattr(scope.get("route"), "path", "unmatched")
        metrics = self._metrics
        metrics.requests.labels(method, route, str(status)).inc()
        metrics.request_seconds.labels(route).observe(seconds)
        if context.problem:
            metrics.problems.labels(context.problem).inc()
        if status == _CLIENT_LEFT:
            metrics.disconnects.labels(route).inc()
        facts = {
            "request_id": context.request_id,
            "method": method,
            "route": route,
            "status": status,
            "milliseconds": round(seconds * 1000, 2),
            "bytes": size,
            "caller": context.caller,
            "model": context.model,
            "items": context.items,
        }
        if context.problem:
            facts["problem"] = context.problem
        structlog.get_logger().info("request", **facts)
        if context.audited:
            self._service.audit.write(f"{method} {scope['path'][:200]}", **{name: facts[name] for name in _AUDITED})


_AUDITED = ("request_id", "status", "caller")
