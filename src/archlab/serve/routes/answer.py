"""`POST /v1/answer`: a question about an image."""

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from archlab.serve.asking import ask, items, needs
from archlab.serve.calls import Call, accepts, reply
from archlab.serve.examples import red_circle
from archlab.serve.openapi import operation
from archlab.serve.routing import DirectRoute
from archlab.serve.schemas import Asked, Body, Candidates, ImageData, ModelName, Text

router = APIRouter(prefix="/v1", tags=["images"], route_class=DirectRoute)


class AnswerRequest(Body):
    """An image and a question, with or without candidate answers."""

    image: ImageData
    question: Text
    candidates: Candidates | None = None
    model: ModelName = None


class AnswerResponse(Asked):
    """What the model answers."""

    model: str


_EXAMPLES = {
    "in its own words": {"image": red_circle(), "question": "what colour is the circle"},
    "among candidates": {
        "image": red_circle(),
        "question": "what colour is the circle",
        "candidates": ["red", "green", "blue"],
    },
}


@router.post("/answer", **operation(AnswerResponse, body=AnswerRequest, examples=_EXAMPLES, forms=True))
async def answer(call: Annotated[Call[AnswerRequest], Depends(accepts(AnswerRequest, forms=True))]) -> Response:
    """Answer a question about an image, in the model's own words or with the best of your candidates."""
    body = call.body
    call.count(items(body.candidates))
    with call.using(needs(body.candidates)) as model:
        pixels = await call.image(body.image, model)
        found = await ask(model, pixels, body.question, body.candidates, call.patience)
        return reply({**found, "model": model.name})
