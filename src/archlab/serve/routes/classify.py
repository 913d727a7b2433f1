"""`POST /v1/classify`: which of the caller's own labels fits an image."""

from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import Field
from starlette.responses import Response

from archlab.serve.asking import items
from archlab.serve.calls import Call, accepts, probabilities, reply
from archlab.serve.examples import red_circle
from archlab.serve.openapi import operation
from archlab.serve.routing import DirectRoute
from archlab.serve.schemas import Answer, Body, Candidates, Choice, ImageData, ModelName, Text

router = APIRouter(prefix="/v1", tags=["images"], route_class=DirectRoute)


class ClassifyRequest(Body):
    """An image and candidate labels."""

    image: ImageData
    labels: Candidates
    question: Text = Field(default="what is this", description="What the labels answer.")
    model: ModelName = None


class ClassifyResponse(Answer):
    """The labels, the likeliest first."""

    label: str
    labels: list[Choice]
    model: str


_EXAMPLES = {"a shape": {"image": red_circle(), "labels": ["red circle", "blue square", "green triangle"]}}


@router.post("/classify", **operation(ClassifyResponse, body=ClassifyRequest, examples=_EXAMPLES, forms=True))
async def classify(call: Annotated[Call[ClassifyRequest], Depends(accepts(ClassifyRequest, forms=True))]) -> Response:
    """Classify an image with labels of your own; nothing is trained for them."""
    body = call.body
    call.count(items(body.labels))
    with call.using("choose") as model:
        pixels = await call.image(body.image, model)
        (scores,) = await model.choose([pixels], [body.question], [body.labels], **call.patience)
        ranked = probabilities(body.labels, scores)
        return reply({"label": ranked[0]["text"], "labels": ranked, "model": model.name})
