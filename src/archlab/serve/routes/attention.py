"""`POST /v1/attention`: where the trunk looks."""

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends
from pydantic import Field
from starlette.responses import Response

from archlab.serve.calls import Call, accepts, reply
from archlab.serve.examples import red_circle
from archlab.serve.openapi import operation
from archlab.serve.problems import invalid
from archlab.serve.routing import DirectRoute
from archlab.serve.schemas import Answer, Body, ImageData, ModelName, Text

router = APIRouter(prefix="/v1", tags=["images"], route_class=DirectRoute)


class AttentionRequest(Body):
    """An image and a question, and which maps to send."""

    image: ImageData
    question: Text
    layer: int | None = Field(default=None, ge=0, lt=1000, description="One layer, from 0; all without it.")
    head: int | None = Field(default=None, ge=0, lt=1000, description="One head, from 0; all without it.")
    model: ModelName = None


class AttentionResponse(Answer):
    """Weights (layers, heads, T, T) over T tokens, the visual ones first; every row sums to 1."""

    tokens: list[str]
    visual: int = Field(description="How many of the tokens are visual.")
    layers: list[int]
    heads: list[int]
    maps: list[list[list[list[float]]]]
    model: str


_EXAMPLES = {"the first layer": {"image": red_circle(), "question": "what colour is the circle", "layer": 0}}


@router.post("/attention", **operation(AttentionResponse, body=AttentionRequest, examples=_EXAMPLES, forms=True))
async def attention(
    call: Annotated[Call[AttentionRequest], Depends(accepts(AttentionRequest, forms=True))],
) -> Response:
    """Show the attention maps of the trunk, per layer and head, for an image and a question."""
    body = call.body
    call.count(1)
    with call.using("attention") as model:
        pixels = await call.image(body.image, model)
        seen = await model.attention(pixels, body.question, **call.patience)
        layers = _picked("layer", body.layer, seen.maps.shape[0])
        heads = _picked("head", body.head, seen.maps.shape[1])
        answer: dict[str, Any] = {
            "tokens": seen.tokens,
            "visual": seen.visual,
            "layers": layers,
            "heads": heads,
            "maps": np.ascontiguousarray(seen.maps[layers][:, heads]),
            "model": model.name,
        }
        return reply(answer)


def _picked(name: str, asked: int | None, count: int) -> list[int]:
    if asked is None:
        return list(range(count))
    if asked >= count:
        raise invalid(name, f"must be less than {count}, not {asked}")
    return [asked]
