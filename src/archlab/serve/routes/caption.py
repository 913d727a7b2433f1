"""`POST /v1/caption`: describe an image, at once or piece by piece."""

from contextlib import AsyncExitStack
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import Field
from starlette.responses import Response

from archlab.serve.calls import Call, accepts, reply
from archlab.serve.examples import red_circle
from archlab.serve.openapi import operation
from archlab.serve.routing import DirectRoute
from archlab.serve.schemas import DESCRIBE, Answer, Body, ImageData, ModelName, Text
from archlab.serve.sse import also_streams, event, streamed

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
_OPTIONS = also_streams(operation(CaptionResponse, body=CaptionRequest, examples=_EXAMPLES, forms=True))


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
    async with AsyncExitStack() as held:
        model = held.enter_context(call.using("begin"))
        pixels = await call.image(body.image, model)
        pieces = model.stream(pixels, body.question, **call.patience)
        done = event({"model": model.name}, "done")
        return await streamed(call, held, pieces, lambda piece: {"text": piece}, lambda _: done)
