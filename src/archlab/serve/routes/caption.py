"""`POST /v1/caption`: describe an image, at once or piece by piece."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing
from typing import Annotated, Any, cast

import orjson
from fastapi import APIRouter, Depends
from fastapi.sse import format_sse_event
from pydantic import Field
from starlette.responses import Response, StreamingResponse

from archlab.serve.calls import Call, accepts, reply
from archlab.serve.errors import ServeError
from archlab.serve.examples import red_circle
from archlab.serve.openapi import operation
from archlab.serve.problems import from_serve_error
from archlab.serve.routing import DirectRoute
from archlab.serve.schemas import DESCRIBE, Answer, Body, ImageData, ModelName, Text

router = APIRouter(prefix="/v1", tags=["images"], route_class=DirectRoute)


class CaptionRequest(Body):
    """An image to describe."""

    image: ImageData
    question: Text = Field(default=DESCRIBE, description="The request for a description, in the words of training.")
    stream: bool = Field(default=False, description="Send pieces as server-sent events while they are decoded.")
    model: ModelName = None


class CaptionResponse(Answer):
    """What the model says."""

    caption: str
    confidence: float
    decode_steps: int
    model: str


_EXAMPLES = {
    "at once": {"image": red_circle()},
    "piece by piece": {"image": red_circle(), "stream": True},
}
_OPTIONS = operation(CaptionResponse, body=CaptionRequest, examples=_EXAMPLES, forms=True)
_EVENT = {"type": "object", "properties": {"event": {"type": "string"}, "data": {"type": "string"}}}
_OPTIONS["responses"][200] = {"content": {"text/event-stream": {"schema": _EVENT}}}


@router.post("/caption", **_OPTIONS)
async def caption(call: Annotated[Call[CaptionRequest], Depends(accepts(CaptionRequest, forms=True))]) -> Response:
    """Describe an image. VL-JEPA embeds it and speaks the embedding; the token model writes.

    With `stream` every piece is an event `data: {"text": …}`, and `event: done` follows the last. An error on the way
    is an `event: error` with a problem document.
    """
    body = call.body
    call.count(1)
    if not body.stream:
        with call.using("speak") as model:
            pixels = await call.image(body.image, model)
            (spoken,) = await model.speak([pixels], [body.question], **call.patience)
            return reply(
                {
                    "caption": spoken.text,
                    "confidence": spoken.confidence,
                    "decode_steps": spoken.steps,
                    "model": model.name,
                }
            )
    async with AsyncExitStack() as stack:
        model = stack.enter_context(call.using("begin"))
        pixels = await call.image(body.image, model)
        stream = cast(AsyncGenerator[str, None], model.stream(pixels, body.question, **call.patience))
        pieces = await stack.enter_async_context(aclosing(stream))
        first = await anext(pieces, None)  # until here an error is still a status
        held = stack.pop_all()
    return StreamingResponse(_events(call, held, first, pieces), media_type="text/event-stream")


async def _events(
    call: Call[CaptionRequest], held: AsyncExitStack, first: str | None, pieces: AsyncIterator[str]
) -> AsyncIterator[bytes]:
    async with held:
        try:
            if first is not None:
                yield _event({"text": first})
                async for piece in pieces:
                    yield _event({"text": piece})
            yield _event({"model": call.context.model}, "done")
        except ServeError as error:
            yield _event(from_serve_error(error).document(call.context.request_id), "error")


def _event(data: dict[str, Any], name: str | None = None) -> bytes:
    return format_sse_event(data_str=orjson.dumps(data).decode(), event=name)
