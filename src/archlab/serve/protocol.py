"""What holds before a request is one: bounds of its head and of connections, however slow or endless its clients.

uvicorn's protocol by httptools has none of these; `archlab serve` takes this one, and so does
`uvicorn archlab.serve.app:app --http archlab.serve.protocol:Bounded`.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from archlab.serve import problems
from archlab.serve.middleware.headers import ENCODED, NO_STORE
from archlab.serve.middleware.observe import REQUEST_ID
from archlab.serve.problems import Problem
from archlab.serve.settings import Settings


def bounded(settings: Settings) -> type[HttpToolsProtocol]:
    """uvicorn's protocol of HTTP within the bounds of the settings."""

    class Bounded(HttpToolsProtocol):
        """One connection. Whoever is refused gets a problem document, as from the application."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._timer: asyncio.TimerHandle | None = None
            self._problem: Problem | None = None
            self._head = 0  # bytes of the head that is being read
            self._heads = 0  # that were begun
            self._in_head = True
            self._wait()
            if len(self.connections) > settings.max_connections:
                detail = f"{settings.max_connections} connections are open, as many as allowed."
                self._refuse(Problem(problems.OVERLOADED, detail, retry_after=1))

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            heads = self._heads
            super().data_received(data)
            if self.transport.is_closing() or self.transport.get_protocol() is not self:  # it is a WebSocket now
                return
            if self._in_head and self._heads == heads:
                # The parser keeps a name or value without end to itself; what it has told us is counted twice here.
                self._head += len(data)
                if self._head > 2 * settings.max_head:
                    self._refuse(_too_large())
            if self._idle and self._timer is None:
                self._wait()

        def on_message_begin(self) -> None:
            self._head, self._in_head = 0, True
            self._heads += 1
            super().on_message_begin()

        def on_url(self, url: bytes) -> None:
            self._count(len(url))
            super().on_url(url)

        def on_header(self, name: bytes, value: bytes) -> None:
            self._count(len(name) + len(value))
            super().on_header(name, value)

        def on_headers_complete(self) -> None:
            self._in_head = False
            self._stop_waiting()
            super().on_headers_complete()

        def send_400_response(self, msg: str) -> None:
            """What the parser refuses, or what was refused inside it."""
            self._refuse(self._problem or Problem(problems.MALFORMED, msg))

        @property
        def _idle(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _count(self, size: int) -> None:
            self._head += size
            if self._head > settings.max_head:
                self._problem = _too_large()
                raise self._problem  # which ends the parser

        def _wait(self) -> None:
            self._timer = self.loop.call_later(settings.head_seconds, self._late)

        def _stop_waiting(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _late(self) -> None:
            detail = f"The line and headers of a request must arrive within {settings.head_seconds:g} seconds."
            self._refuse(Problem(problems.SLOW_HEAD, detail))

        def _refuse(self, problem: Problem) -> None:
            self._stop_waiting()
            if not self.transport.is_closing() and self._idle:  # else this would stand inside another answer
                self.transport.write(_answer(problem, self.server_state.default_headers))
            self.transport.close()

    def _too_large() -> Problem:
        detail = f"The line and headers of a request must have at most {settings.max_head} bytes."
        return Problem(problems.HEAD_TOO_LARGE, detail)

    return Bounded


def _answer(problem: Problem, headers: list[tuple[bytes, bytes]]) -> bytes:
    request_id = secrets.token_hex(8)
    response = problem.response(request_id)
    ours = (REQUEST_ID.lower().encode(), request_id.encode()), (b"connection", b"close")
    lines = [b"%b: %b\r\n" % header for header in (*headers, *response.raw_headers, *ENCODED, NO_STORE, *ours)]
    return b"".join([STATUS_LINE[response.status_code], *lines, b"\r\n", bytes(response.body)])


def __getattr__(name: str) -> Any:
    """`Bounded` is made when uvicorn asks for it, by the settings of the environment."""
    if name != "Bounded":
        raise AttributeError(name)
    return bounded(Settings.read())
