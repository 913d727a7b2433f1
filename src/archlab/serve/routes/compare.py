"""`POST /v1/compare`: one image and one question to both arms, side by side."""

import time
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends
from pydantic import Field
from starlette.responses import Response

from archlab.compare.cost import cost_per_1000_requests
from archlab.compare.scores import ARMS
from archlab.serve.asking import ask, items, needs
from archlab.serve.calls import Call, accepts, reply
from archlab.serve.examples import red_circle
from archlab.serve.model import Model
from archlab.serve.openapi import operation
from archlab.serve.routing import DirectRoute
from archlab.serve.schemas import Answer, Asked, Body, Candidates, ImageData, Text

router = APIRouter(prefix="/v1", tags=["images"], route_class=DirectRoute)


class CompareRequest(Body):
    """An image and a question, with or without candidate answers."""

    image: ImageData
    question: Text
    candidates: Candidates | None = None


class ArmAnswer(Asked):
    """What one arm answered, and what it took."""

    arm: str
    model: str
    backend: str
    latency_ms: float = Field(description="From asking the model to its answer, with its wait in the queue.")
    flops: int | None = Field(
        description="Floating-point operations of this answer, from the image to the words, nothing remembered; "
        "counted in PyTorch, so null for an export that was loaded without its run."
    )
    cost_per_1000: float | None = Field(
        description="Of 1,000 such requests one after the other, at the price of the machine that the service was told "
        "(`ARCHLAB_PRICE_PER_HOUR`); null without one."
    )


class CompareResponse(Answer):
    """Both arms."""

    question: str
    arms: list[ArmAnswer]
    agree: bool = Field(description="Whether both gave the same answer.")


_EXAMPLES = {
    "in their own words": {"image": red_circle(), "question": "what colour is the circle"},
    "among candidates": {
        "image": red_circle(),
        "question": "what colour is the circle",
        "candidates": ["red", "green", "blue"],
    },
}


@router.post("/compare", **operation(CompareResponse, body=CompareRequest, examples=_EXAMPLES, forms=True))
async def compare(call: Annotated[Call[CompareRequest], Depends(accepts(CompareRequest, forms=True))]) -> Response:
    """Ask the default model of each arm, one after the other, so that neither slows the other."""
    call.count(len(ARMS) * items(call.body.candidates))
    operation = needs(call.body.candidates)
    with call.using(operation, arm=ARMS[0]) as first, call.using(operation, arm=ARMS[1]) as second:
        sizes = {model.image_size: model for model in (first, second)}
        pixels = {size: await call.image(call.body.image, model) for size, model in sizes.items()}
        answers = [await _ask(call, model, pixels[model.image_size]) for model in (first, second)]
        for found, model in zip(answers, (first, second), strict=True):  # once neither is slowed down by it
            found["flops"] = await _flops(call, model, pixels[model.image_size])
    agree = answers[0]["answer"] == answers[1]["answer"]
    return reply({"question": call.body.question, "arms": answers, "agree": agree})


async def _ask(call: Call[CompareRequest], model: Model, pixels: np.ndarray) -> dict[str, Any]:
    body, price = call.body, call.service.settings.price_per_hour
    started = time.perf_counter()
    found = await ask(model, pixels, body.question, body.candidates, call.patience)
    seconds = time.perf_counter() - started
    return {
        "arm": model.arm,
        "model": model.name,
        "backend": model.backend,
        **found,
        "latency_ms": round(seconds * 1000, 3),
        "cost_per_1000": cost_per_1000_requests(1 / seconds, price) if price else None,
    }


async def _flops(call: Call[CompareRequest], model: Model, pixels: np.ndarray) -> int | None:
    if not model.can("flops"):
        return None
    return await model.flops(pixels, call.body.question, call.body.candidates, **call.patience)
