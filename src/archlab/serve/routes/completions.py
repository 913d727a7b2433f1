"""`POST /v1/completions`: a text goes on, as OpenAI's clients ask for it; with a model of characters."""

import secrets
import time
from contextlib import AsyncExitStack, aclosing
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from fastapi.sse import format_sse_event
from pydantic import BeforeValidator, Field, StringConstraints
from starlette.responses import Response

from archlab.generate.settings import Sampling, Settings
from archlab.serve.calls import Call, accepts, reply
from archlab.serve.model import Model
from archlab.serve.openapi import operation
from archlab.serve.problems import invalid
from archlab.serve.routing import DirectRoute
from archlab.serve.schemas import MOST_TEXT, Answer, Body, ModelName, one_or_many
from archlab.serve.sse import also_streams, event, streamed

router = APIRouter(prefix="/v1", tags=["text"], route_class=DirectRoute)
_MOST_TOKENS = 128
_DONE = format_sse_event(data_str="[DONE]")

Stop = Annotated[str, StringConstraints(min_length=1, max_length=100)]


def _one_or_many_or_none(schema: dict[str, Any]) -> None:
    one_or_many(schema)
    schema["anyOf"].append({"type": "null"})


class CompletionsRequest(Body):
    """A text, and how it is to go on. A token is a character."""

    prompt: str = Field(min_length=1, max_length=MOST_TEXT)
    max_tokens: int | None = Field(
        default=None, ge=1, le=MOST_TEXT, description=f"By default {_MOST_TOKENS}, or what the model reads."
    )
    temperature: float | None = Field(
        default=None, ge=0, le=2, description="0 takes the likeliest token; by default 1."
    )
    top_p: float | None = Field(default=None, gt=0, le=1, description="Of the likeliest tokens; by default 1, of all.")
    seed: int | None = Field(default=None, ge=0, lt=2**63, description="Of the draws; by default another each time.")
    stop: Annotated[
        list[Stop],
        BeforeValidator(lambda given: [given] if isinstance(given, str) else given or []),
        Field(max_length=4, description="Texts before which it ends.", json_schema_extra=_one_or_many_or_none),
    ] = Field(default_factory=list)
    stream: bool | None = Field(default=None, description="Send pieces as server-sent events while they are decoded.")
    model: ModelName = None
    n: Literal[1] | None = Field(default=None, description="One continuation; there are no more.")
    user: str | None = Field(default=None, max_length=256, description="Accepted for compatibility, and not used.")


class CompletionChoice(Answer):
    """The continuation."""

    text: str
    index: int
    logprobs: None
    finish_reason: Literal["stop", "length"] | None = Field(description="Null in all events but the last.")


class CompletionsResponse(Answer):
    """The continuation, in OpenAI's form."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]


_EXAMPLES = {
    "a verse": {"prompt": "To be, or not", "max_tokens": 40, "temperature": 0.8, "seed": 1},
    "piece by piece": {"prompt": "To be, or not", "stream": True},
}


@router.post(
    "/completions", **also_streams(operation(CompletionsResponse, body=CompletionsRequest, examples=_EXAMPLES))
)
async def completions(call: Annotated[Call[CompletionsRequest], Depends(accepts(CompletionsRequest))]) -> Response:
    """Continue a text with a trained model of characters, once one is loaded, as OpenAI's clients ask for it.

    One prompt and one continuation, drawn by temperature and top-p: no penalties, no echo, no log-probabilities.

    None comes with the package: `archlab train` makes one, `archlab serve` or `POST /v1/models` loads it. Until then
    this is 404. With `stream` every piece is an event, and `data: [DONE]` follows the last; an error on the way is an
    `event: error` with a problem document.
    """
    body, created = call.body, int(time.time())
    call.count(1)

    def answer(text: str, finish: str | None) -> dict[str, Any]:
        return {
            "id": call.context.request_id,
            "object": "text_completion",
            "created": created,
            "model": call.context.model,
            "choices": [{"text": text, "index": 0, "logprobs": None, "finish_reason": finish}],
        }

    async with AsyncExitStack() as held:
        model = held.enter_context(call.using("complete"))
        settings = _settings(body, model)

        def finish(text: str) -> str:
            return "length" if len(text) == settings.max_new_tokens else "stop"

        pieces = model.complete(body.prompt, settings, body.stop, **call.patience)
        if not body.stream:
            async with aclosing(pieces):
                text = "".join([piece async for piece in pieces])
            return reply(answer(text, finish(text)))
        return await streamed(
            call, held, pieces, lambda piece: answer(piece, None), lambda text: event(answer("", finish(text))) + _DONE
        )


def _settings(body: CompletionsRequest, model: Model) -> Settings:
    """How the model is asked; what it cannot read is refused here, as its batch would end with it."""
    room = model.about.context - len(body.prompt) + 1  # the last character is not read any more
    if room < 1:
        raise invalid("prompt", f"must have at most {model.about.context} characters, which {model.name!r} reads")
    if unknown := set(body.prompt) - set(model.about.labels):
        first = min(unknown, key=body.prompt.index)
        raise invalid("prompt", f"must hold no {first!r}, which is not in the text that {model.name!r} learned")
    if body.max_tokens is not None and body.max_tokens > room:
        raise invalid("max_tokens", f"must be at most {room} after this prompt: {model.name!r} reads no more")
    seed = secrets.randbits(32) if body.seed is None else body.seed
    temperature = 1.0 if body.temperature is None else body.temperature
    drawn = Sampling(temperature=temperature, top_p=body.top_p or 1.0, seed=seed) if temperature else None
    return Settings(max_new_tokens=body.max_tokens or min(_MOST_TOKENS, room), strategy=drawn)
