"""Without API keys only this machine is served, however the server was started.

A web page open in a browser on this machine is not this machine: it could reach the port, so names other than those of
the loopback (DNS rebinding) and requests from other origins are refused too.
"""

from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from archlab.serve import problems
from archlab.serve.context import context_of
from archlab.serve.problems import Problem

_REMEDY = (
    "without API keys only this machine is served; create a key with 'archlab keys create' and set ARCHLAB_API_KEYS"
)


def is_loopback(host: str) -> bool:
    """Whether a name or an address is that of the own machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        return False


class LoopbackOnly:
    """Refuses what does not come from this machine."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] not in ("http", "websocket") or not (reason := _foreign(scope)):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": reason})
        else:
            context = context_of(scope)
            context.problem, context.audited = problems.FORBIDDEN.slug, True
            problem = Problem(problems.FORBIDDEN, f"{reason}: {_REMEDY}.")
            await problem.response(context.request_id)(scope, receive, send)


def _foreign(scope: Scope) -> str:
    """Why a connection is refused; empty if it is not."""
    server = scope.get("server")  # the address that was connected to; a Unix socket has no port
    if server and server[1] is not None and not is_loopback(server[0]):
        return f"address {server[0]}"
    headers = Headers(scope=scope)
    for name in ("host", "origin"):
        value = headers.get(name)
        if value and not is_loopback(urlsplit(value if "//" in value else f"//{value}").hostname or ""):
            return f"{name.capitalize()} {value[:80]}"
    return ""
