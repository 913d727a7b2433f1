"""Fields that several endpoints share. Every rule stands in the type, so that the OpenAPI document shows it."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, StringConstraints, WithJsonSchema

MOST_TEXT = 4000
MOST_ITEMS = 256
DESCRIBE = "describe the picture"
"""The query under which runs are trained to describe an image."""
_URL = re.compile(r"[a-z][a-z0-9+.-]*:(//)?", re.IGNORECASE)


class Body(BaseModel):
    """A request body: unknown fields are refused, with a suggestion."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Answer(BaseModel):
    """A response body."""

    model_config = ConfigDict(frozen=True)


def check_image(value: Any) -> str | bytes:
    """An image as it was sent: the bytes of a file, base64 or a data URL; it is decoded later, in another thread."""
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError("must be an image in base64, a data URL, or a file of a form")
    if not value:
        raise ValueError("is empty; send an image in base64, a data URL, or a file of a form")
    if (scheme := _URL.match(value[:40])) and not value[:11].lower().startswith("data:image/"):
        raise ValueError(
            f"begins with {scheme[0]!r}; images are never fetched from a URL: send the bytes, in base64, as a data URL "
            f"'data:image/…;base64,…', or as a file of a form"
        )
    return value


ImageData = Annotated[
    str | bytes,
    PlainValidator(check_image),
    WithJsonSchema({"type": "string", "format": "image", "minLength": 1}),
    Field(
        description="JPEG, PNG, WebP or GIF (its first frame): base64, a data URL, or a file of a form. "
        "URLs are not fetched."
    ),
]
Text = Annotated[str, StringConstraints(min_length=1, max_length=MOST_TEXT, pattern=r"\S")]
ModelName = Annotated[
    str | None, Field(max_length=64, description="Name of a loaded model; by default the default one that can do it.")
]


def different(texts: list[str]) -> list[str]:
    """Refuse what is there twice."""
    if len(set(texts)) < len(texts):
        twice = next(text for place, text in enumerate(texts) if text in texts[:place])
        raise ValueError(f"must be different; {twice[:80]!r} is there twice")
    return texts


def one_or_many(schema: dict[str, Any]) -> None:
    """For `json_schema_extra` of a list: a single item may stand without one."""
    many = {name: schema.pop(name) for name in ("type", "items", "minItems", "maxItems") if name in schema}
    schema["anyOf"] = [many["items"], many]


Candidates = Annotated[
    list[Text],
    # Before the validator, which would hide its limits from the document.
    Field(min_length=2, max_length=MOST_ITEMS, description="Different texts.", json_schema_extra={"uniqueItems": True}),
    AfterValidator(different),
]


class Choice(Answer):
    """A candidate and its probability among all."""

    text: str
    probability: float


class Asked(Answer):
    """The answer to a question."""

    answer: str
    confidence: float = Field(
        description="From 0 to 1: the probability of the candidate, or the geometric mean of those of the tokens."
    )
    decode_steps: int = Field(description="Tokens decoded; none to choose among candidates.")
    candidates: list[Choice] | None = Field(description="The likeliest first; null without candidates.")
