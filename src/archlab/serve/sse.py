"""Text that is sent while it is decoded: server-sent events."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from typing import Any

import orjson
from fastapi.sse import format_sse_event
from starlette.responses import Response, StreamingResponse

from archlab.serve import problems
from archlab.serve.calls import Call
from archlab.serve.errors import ServeError
from archlab.serve.problems import from_serve_error

Documented = dict[str, Any]
_EVENT = {"type": "object", "properties": {"event": {"type": "string"}, "data": {"type": "string"}}}


def also_streams(options: Documented) -> Documented:
    """Options of a route (`openapi.operation`) whose answer may be events, too."""
    options["responses"][200] = {"content": {"text/event-stream": {"schema": _EVENT}}}
    return options


async def streamed(
    call: Call[Any],
    held: AsyncExitStack,
    pieces: AsyncGenerator[str, None],
    data: Callable[[str], dict[str, Any]],
    end: Callable[[str], bytes],
) -> Response:
    """An event for every piece of a text, and one at its end; an error on the way is an event, too.

    Args:
        held: what the pieces need, let go after the last.
        data: of the event of a piece.
        end: the last event, of the whole text.

    Raises:
        ServeError: before the first piece, while it is still a status.
    """
    await held.enter_async_context(aclosing(pieces))
    first = await anext(pieces, None)
    return StreamingResponse(_events(call, held.pop_all(), first, pieces, data, end), media_type="text/event-stream")


async def _events(
    call: Call[Any],
    held: AsyncExitStack,
    first: str | None,
    pieces: AsyncIterator[str],
    data: Callable[[str], dict[str, Any]],
    end: Callable[[str], bytes],
) -> AsyncIterator[bytes]:
    async with held:
        try:
            text = first or ""
            if first is not None:
                yield event(data(first))
                async for piece in pieces:
                    text += piece
                    yield event(data(piece))
            yield end(text)
        except ServeError as error:  # too late for a status
            problem = problems.noted(from_serve_error(error), call.context, error.__cause__)
            # Under the key "error" OpenAI's clients find it.
            told = {"message": problem.detail, "type": problem.kind.uri, "code": problem.kind.status}
            yield event(problem.document(call.context.request_id) | {"error": told}, "error")


def event(data: dict[str, Any], name: str | None = None) -> bytes:
    """One event."""
    return format_sse_event(data_str=orjson.dumps(data).decode(), event=name)
