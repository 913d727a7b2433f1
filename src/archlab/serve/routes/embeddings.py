"""`POST /v1/embeddings`: vectors of texts and images, as OpenAI's clients ask for them."""

import base64
from asyncio import gather
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Depends
from pydantic import BeforeValidator, Discriminator, Field, Tag
from starlette.responses import Response

from archlab.serve.calls import Call, accepts, reply
from archlab.serve.examples import red_circle
from archlab.serve.openapi import operation
from archlab.serve.problems import BRANCHES, invalid
from archlab.serve.routing import DirectRoute
from archlab.serve.schemas import DESCRIBE, MOST_ITEMS, Answer, Body, ImageData, ModelName, Text, one_or_many

router = APIRouter(prefix="/v1", tags=["embeddings"], route_class=DirectRoute)
_TEXT, _TEXT_ITEM, _IMAGE_ITEM = BRANCHES


class TextItem(Body):
    """A text."""

    text: Text


class ImageItem(Body):
    """An image, read under a question that says what about it matters."""

    image: ImageData
    text: Text = Field(default=DESCRIBE, description="The question.")


def _items(given: Any) -> Any:
    """A list, also of a single item; files and data URLs are images wherever they stand."""

    def item(one: Any) -> Any:
        is_image = isinstance(one, bytes) or (isinstance(one, str) and one[:11].lower() == "data:image/")
        return {"image": one} if is_image else one

    return [item(one) for one in given] if isinstance(given, list) else [item(given)]


def _kind(item: Any) -> str:
    """The tag of an item; what is none of them is refused as a text is."""
    if isinstance(item, ImageItem) or (isinstance(item, dict) and "image" in item):
        return _IMAGE_ITEM
    return _TEXT_ITEM if isinstance(item, TextItem | dict) else _TEXT


Item = Annotated[
    Annotated[Text, Tag(_TEXT)] | Annotated[TextItem, Tag(_TEXT_ITEM)] | Annotated[ImageItem, Tag(_IMAGE_ITEM)],
    Discriminator(_kind),
]


class EmbeddingsRequest(Body):
    """Texts and images; a text that is a data URL of an image is that image."""

    input: Annotated[
        list[Item],
        BeforeValidator(_items),
        Field(min_length=1, max_length=MOST_ITEMS, json_schema_extra=one_or_many),
    ]
    model: ModelName = None
    encoding_format: Literal["float", "base64"] = Field(
        default="float", description="Numbers, or little-endian 32-bit floats in base64."
    )
    dimensions: int | None = Field(default=None, ge=1, description="The width of the model; it has no other.")
    user: str | None = Field(default=None, max_length=256, description="Accepted for compatibility, and not used.")


class Embedding(Answer):
    """One vector of unit length."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Usage(Answer):
    """Items, where OpenAI counts tokens: items are what the limits here count."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(Answer):
    """The vectors in the order of the input."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


_EXAMPLES = {
    "a text": {"input": "a red circle"},
    "texts and an image": {"input": ["a red circle", {"text": "a blue square"}, {"image": red_circle()}]},
    "as OpenAI's client asks": {"input": [red_circle(), "a red circle"], "encoding_format": "base64"},
}


@router.post("/embeddings", **operation(EmbeddingsResponse, body=EmbeddingsRequest, examples=_EXAMPLES, forms=True))
async def embeddings(
    call: Annotated[Call[EmbeddingsRequest], Depends(accepts(EmbeddingsRequest, forms=True))],
) -> Response:
    """Embed texts and images: in one space with VL-JEPA, in one for each with the token model, images with an encoder.

    The dot product of two of one space is their similarity; a text and an image in one request are refused where they
    have none. Compatible with OpenAI's `/v1/embeddings`; images come as data URLs, objects with `image`, or files of a
    form.
    """
    body = call.body
    call.count(len(body.input))
    with call.using(
        "embed_images" if all(isinstance(item, ImageItem) for item in body.input) else "embed_texts"
    ) as model:
        if body.dimensions not in (None, model.width):
            raise invalid("dimensions", f"must be {model.width}, the width of model {model.name!r}")
        images = {place: item for place, item in enumerate(body.input) if isinstance(item, ImageItem)}
        texts = {
            place: item.text if isinstance(item, TextItem) else item
            for place, item in enumerate(body.input)
            if not isinstance(item, ImageItem)
        }
        if images and texts and not model.shares_space:
            raise invalid(
                "input",
                f"must be texts alone or images alone for model {model.name!r}: its vectors of texts and of images are "
                f"not comparable, as those of a vljepa model are",
            )
        vectors = np.empty((len(body.input), model.width), np.float32)
        if images:
            pixels = await gather(*(call.image(one.image, model, f"input[{at}].image") for at, one in images.items()))
            queries = [item.text for item in images.values()]
            vectors[list(images)] = await model.embed_images(pixels, queries, **call.patience)
        if texts:
            vectors[list(texts)] = await model.embed_texts(list(texts.values()), **call.patience)
        name = model.name
    encoded = [_base64(one) for one in vectors] if body.encoding_format == "base64" else vectors
    return reply(
        {
            "object": "list",
            "data": [{"object": "embedding", "index": at, "embedding": one} for at, one in enumerate(encoded)],
            "model": name,
            "usage": {"prompt_tokens": len(vectors), "total_tokens": len(vectors)},
        }
    )


def _base64(vector: np.ndarray) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
