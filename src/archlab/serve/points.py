"""Points, filters and searches as they are sent to `/v1/collections`."""

from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema, model_validator

from archlab.index.filters import MOST_CONDITIONS
from archlab.index.metadata import LARGEST_NUMBER, LONGEST_NAME, MOST_BYTES
from archlab.index.protocol import LONGEST_ID, LONGEST_VECTOR, NAME, WIDEST
from archlab.serve.bodies import File
from archlab.serve.schemas import DESCRIBE, MOST_ITEMS, Body, ImageData, ModelName, Text, different

KINDS = ("text", "image", "vector")
MOST_HITS = 1000
_MOST_IDS = 10_000

_NUMBER = {"type": "number", "minimum": -LARGEST_NUMBER, "maximum": LARGEST_NUMBER}
_SCALAR = {"anyOf": [{"type": "string"}, _NUMBER, {"type": "boolean"}]}
_FIELD = {"type": "string", "minLength": 1, "maxLength": LONGEST_NAME, "pattern": r'^[^"\\]+$'}
_METADATA = {
    "type": "object",
    "propertyNames": _FIELD | {"pattern": r'^[^_"\\][^"\\]*$'},
    "additionalProperties": {"anyOf": [*_SCALAR["anyOf"], {"type": "array", "items": _SCALAR}]},
}


def _condition(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _filter(levels: int) -> dict[str, Any]:
    """The schema of a filter of so many levels of and, or, not; deeper ones are read as well."""
    values = {"type": "array", "items": _SCALAR, "minItems": 1, "maxItems": MOST_CONDITIONS}
    bounds = dict.fromkeys(("gt", "gte", "lt", "lte"), _NUMBER)
    kinds = [
        _condition(field=_FIELD, equals=_SCALAR),
        _condition(**{"field": _FIELD, "in": values}),
        _condition(field=_FIELD, **bounds) | {"required": ["field"], "minProperties": 2},
        _condition(field=_FIELD, exists={"type": "boolean"}),
    ]
    if levels:
        parts = {"type": "array", "items": _filter(levels - 1), "minItems": 1, "maxItems": MOST_CONDITIONS - 1}
        kinds += [_condition(**{name: parts}) for name in ("and", "or")]
        kinds.append(_condition(**{"not": _filter(levels - 1)}))
    return {"oneOf": kinds}


def _from_text(value: Any) -> Any:
    """In a form everything is text: there an object is JSON."""
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        raise ValueError("must be JSON") from None


def _left_out(schema: dict[str, Any]) -> None:
    schema.pop("default")


ABSENT: Any = Field(default=None, json_schema_extra=_left_out)
"""Of a field that is left out, not null, where it does not apply."""

Where = Annotated[
    dict[str, Any],
    BeforeValidator(_from_text),
    WithJsonSchema(
        _filter(1)
        | {
            "description": "Only points that meet this: a field that `equals` a value, is `in` a list, lies within "
            "bounds `gt`, `gte`, `lt`, `lte`, or `exists`; or `and`, `or`, `not` of such conditions, nested at will."
        }
    ),
]
Metadata = Annotated[
    dict[str, Any],
    WithJsonSchema(_METADATA),
    Field(
        default_factory=dict,
        description="Texts, numbers within ±2^53, true and false, or lists of these, to search by; names must not "
        f"begin with an underscore. At most {MOST_BYTES:,} bytes as JSON.",
        examples=[{"colour": "red", "year": 1999, "tags": ["warm", "round"]}],
    ),
]
Vector = Annotated[
    list[Annotated[float, Field(ge=-LONGEST_VECTOR, le=LONGEST_VECTOR)]], Field(min_length=1, max_length=WIDEST)
]
PointId = Annotated[str, Field(min_length=1, max_length=LONGEST_ID)]
Origin = Annotated[
    str | None,
    Field(
        max_length=64, description="Loaded model that your vectors come from; refused if it is not the collection's."
    ),
]


def _named(value: Any) -> File:
    if not isinstance(value, File):
        raise ValueError("must be a file")
    if not 1 <= len(value.name) <= LONGEST_ID:
        raise ValueError(f"must have a file name of 1 to {LONGEST_ID} characters, which becomes the id")
    return value


def _differently_named(files: list[File]) -> list[File]:
    different([file.name for file in files])
    return files


NamedFile = Annotated[File, PlainValidator(_named), WithJsonSchema({"type": "string", "format": "image"})]


class CreateRequest(Body):
    """A new collection, for a model's vectors or for your own."""

    name: str = Field(pattern=f"^{NAME}$")
    model: ModelName = None
    query: Text = Field(default=DESCRIBE, description="What the model is asked about every image.")
    width: int | None = Field(
        default=None,
        ge=1,
        le=WIDEST,
        description="Of vectors of your own: the collection then has no model, and takes neither texts nor images.",
    )
    distance: Literal["cosine", "dot", "euclidean"] = "cosine"


class Meant(Body):
    """One of three: a text, an image or a vector."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": [name]} for name in KINDS]})
    text: Text = ABSENT
    image: ImageData = ABSENT
    vector: Vector = ABSENT

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(getattr(self, name) is not None for name in KINDS) != 1:
            raise ValueError("must have one of text, image and vector")
        return self


class Point(Meant):
    """What is stored: an image is embedded under the collection's query."""

    id: PointId
    metadata: Metadata


class UpsertRequest(Body):
    """Points to insert, or to put in the place of those of the same id."""

    points: list[Point] = Field(min_length=1, max_length=MOST_ITEMS)
    model: Origin = None

    @staticmethod
    def field(at: int, name: str) -> str:
        """What a field of the item at a place is called in problems."""
        return f"points[{at}].{name}"


class UpsertForm(Body):
    """Images to insert, or to put in the place of those of the same id, as files of a form."""

    image: Annotated[
        list[NamedFile],
        Field(min_length=1, max_length=MOST_ITEMS, description="Files; their names, which must differ, are the ids."),
        AfterValidator(_differently_named),
    ]
    metadata: Annotated[Metadata, BeforeValidator(_from_text)] = Field(
        default_factory=dict, description="Of every image, as JSON."
    )
    model: Origin = None

    @property
    def points(self) -> list[Point]:
        """The same as points."""
        return [Point(id=file.name, image=file, metadata=self.metadata) for file in self.image]

    @staticmethod
    def field(at: int, name: str) -> str:
        """See `UpsertRequest.field`; a form has nothing but images, and metadata for all of them."""
        return name if name == "metadata" else f"image[{at}]"


class DeleteRequest(Body):
    """Which points to remove: these, or all that meet a condition."""

    ids: Annotated[list[PointId], Field(min_length=1, max_length=_MOST_IDS)] = ABSENT
    where: Where = ABSENT

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.ids is None) == (self.where is None):
            raise ValueError("must have either ids or where")
        return self


class SearchRequest(Meant):
    """What is meant, and what may be found."""

    k: int = Field(default=10, ge=1, le=MOST_HITS, description="Hits at most.")
    where: Where = ABSENT
    model: Origin = None

    @staticmethod
    def field(_: int, name: str) -> str:
        """See `UpsertRequest.field`; here is one item."""
        return name
