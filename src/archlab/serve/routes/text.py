"""`POST /v1/translate` and `/v1/sentiment`: models of text, where such checkpoints are loaded."""

from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import Field
from starlette.responses import Response

from archlab.serve.calls import Call, accepts, probabilities, reply
from archlab.serve.openapi import operation
from archlab.serve.routing import DirectRoute
from archlab.serve.schemas import MOST_ITEMS, Answer, Body, Choice, ModelName, Text

router = APIRouter(prefix="/v1", tags=["text"], route_class=DirectRoute)


class TextsRequest(Body):
    """Texts."""

    texts: Annotated[list[Text], Field(min_length=1, max_length=MOST_ITEMS)]
    model: ModelName = None


class TranslateResponse(Answer):
    """The translations in the order of the texts."""

    translations: list[str]
    model: str


class SentimentResponse(Answer):
    """For every text its classes, the likeliest first."""

    sentiments: list[list[Choice]]
    model: str


_TRANSLATE = {"a sentence": {"texts": ["ein Mann schläft"]}}
_SENTIMENT = {"two reviews": {"texts": ["what a wonderful film", "two hours that I will never get back"]}}


@router.post("/translate", **operation(TranslateResponse, body=TextsRequest, examples=_TRANSLATE))
async def translate(call: Annotated[Call[TextsRequest], Depends(accepts(TextsRequest))]) -> Response:
    """Translate texts with a trained translator, once one is loaded.

    None comes with the package: `archlab train` makes one, `archlab serve` or `POST /v1/models` loads it. Until then
    this is 404.
    """
    call.count(len(call.body.texts))
    with call.using("translate") as model:
        return reply(
            {
                "translations": await model.translate(call.body.texts, **call.patience),
                "model": model.name,
            }
        )


@router.post("/sentiment", **operation(SentimentResponse, body=TextsRequest, examples=_SENTIMENT))
async def sentiment(call: Annotated[Call[TextsRequest], Depends(accepts(TextsRequest))]) -> Response:
    """Tell the sentiment of texts with a trained classifier, once one is loaded.

    None comes with the package: `archlab train` makes one, `archlab serve` or `POST /v1/models` loads it. Until then
    this is 404.
    """
    call.count(len(call.body.texts))
    with call.using("sentiment") as model:
        found = await model.sentiment(call.body.texts, **call.patience)
        labels = model.about.labels
        return reply({"sentiments": [probabilities(labels, one) for one in found], "model": model.name})
