"""A request ends when nobody waits for it any more: its client has left, or its deadline has passed.

Cancelling the handler takes its items out of the model's queue, so that nothing is computed for nobody.
"""

import asyncio
import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from archlab.serve import problems
from archlab.serve.context import context_of
from archlab.serve.problems import Problem, invalid

DEADLINE = "X-Deadline-Ms"
_NUMBER = re.compile(r"[0-9]{1,12}")


class Patience:
    """Cancels the handler of a request that nobody waits for.

    Args:
        app: the next one.
        default: seconds until the deadline of a request that names none.
        longest: seconds that a request may name.
    """

    def __init__(self, app: ASGIApp, *, default: float, longest: float) -> None:
        self._app, self._default, self._longest = app, default, longest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = context_of(scope)
        try:
            seconds = self._seconds(Headers(scope=scope).get(DEADLINE.lower()))
        except Problem as problem:
            context.problem = problem.kind.slug
            await problem.response(context.request_id)(scope, receive, send)
            return
        context.deadline = context.arrived + seconds
        timeout = asyncio.timeout_at(context.deadline)
        wait = _Wait(receive, send, timeout)
        try:
            async with timeout:
                await self._app(scope, wait.receive, wait.send)
        except TimeoutError:
            if not timeout.expired():
                raise
            context.problem = problems.EXPIRED.slug
            detail = f"There was no answer within {seconds * 1000:.0f} milliseconds."
            await Problem(problems.EXPIRED, detail).response(context.request_id)(scope, receive, send)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not wait.left or task is None:
                raise
            task.uncancel()
        finally:
            wait.end()

    def _seconds(self, asked: str | None) -> float:
        if asked is None:
            return self._default
        # Digits are counted first: Python refuses to read thousands of them.
        if not _NUMBER.fullmatch(asked) or not 1 <= int(asked) <= self._longest * 1000:
            rule = f"must be a whole number of milliseconds from 1 to {self._longest * 1000:.0f}, not {asked[:20]!r}"
            raise invalid(DEADLINE, rule)
        return int(asked) / 1000


class _Wait:
    """Watches the connection from the moment the body has been read, and the clock until the answer begins."""

    def __init__(self, receive: Receive, send: Send, timeout: asyncio.Timeout) -> None:
        self._receive, self._send, self._timeout = receive, send, timeout
        self._handler = asyncio.current_task()
        self._watcher: asyncio.Task[None] | None = None
        self._over = asyncio.Event()
        self.left = False

    async def receive(self) -> Message:
        if self._watcher is not None:  # only the end of the connection is left to be received
            await self._over.wait()
            return {"type": "http.disconnect"}
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            self._watcher = asyncio.create_task(self._watch())
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if self._timeout.expired():
                await asyncio.sleep(0)  # the handler is cancelled here
            self._timeout.reschedule(None)  # an answer that has begun is finished
        elif not message.get("more_body", False):
            self.end()
        await self._send(message)

    def end(self) -> None:
        self._over.set()
        if self._watcher is not None:
            self._watcher.cancel()

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._over.set()
        if self._handler is not None:
            self.left = True
            self._handler.cancel()
