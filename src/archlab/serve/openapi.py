"""The OpenAPI document: what FastAPI cannot know because the bodies are read by us (`serve.bodies`)."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Path
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from archlab.serve import problems
from archlab.serve.bodies import FORM, JSON
from archlab.serve.middleware.patience import DEADLINE
from archlab.serve.problems import KINDS, Kind, ProblemDocument

DESCRIPTION = """\
Two architectures behind one interface: a Transformer that generates tokens, and VL-JEPA, which predicts embeddings.

Images are sent as base64, data URLs or files of a form; none is ever fetched from a URL. Every error is a problem
document (RFC 9457) that names field and rule. `X-Deadline-Ms` says how long you wait: later nothing is computed.

`/v1/stream` is a WebSocket, which this document cannot describe: frames go in, and a text comes out whenever the
meaning has changed. Its messages stand in the service's guide.
"""
_REF = "#/components/schemas/{model}"
_ALWAYS = (problems.FORBIDDEN, problems.INVALID, problems.INTERNAL, problems.EXPIRED)
_WITH_KEY = (problems.UNAUTHENTICATED, problems.RATE_LIMITED)
_WITH_BODY = (
    problems.MALFORMED,
    problems.NOT_FOUND,
    problems.SLOW_BODY,
    problems.TOO_LARGE,
    problems.UNSUPPORTED_MEDIA_TYPE,
    problems.OVERLOADED,
    problems.NOT_READY,
    problems.ENGINE_FAILED,
)
_IMAGES = "image/png, image/jpeg, image/webp, image/gif"
_DEADLINE = {
    "name": DEADLINE,
    "in": "header",
    "description": "Milliseconds that you wait for the answer; later nothing is computed for it.",
    "schema": {"type": "integer", "minimum": 1},
    "example": 20_000,
}

_KEY = "key"
_SCHEME = {"type": "http", "scheme": "bearer", "description": "A key made by `archlab keys create`."}

_bodies: dict[str, type[BaseModel]] = {}  # of all operations, by name


def operation(
    answer: type[BaseModel] | None,
    *,
    body: type[BaseModel] | None = None,
    examples: dict[str, Any] | None = None,
    forms: bool | type[BaseModel] = False,
    also: tuple[Kind, ...] = (),
    status: int = 200,
    media_type: str | None = None,
) -> dict[str, Any]:
    """Options of a route.

    Args:
        answer: model of the response; None: it has no body, or a text.
        body: model of the request's body, which the route reads with `calls.accepts`.
        examples: bodies that work, by what they show.
        forms: whether the body may be a form; or what a form is, where its fields are others.
        also: problems besides those that every such route may answer.
        status: of success.
        media_type: of a text.
    """
    kinds = {*_ALWAYS, *_WITH_KEY, *also, *(_WITH_BODY if body else ())}
    options: dict[str, Any] = {
        "status_code": status,
        "responses": {code: _response([kind for kind in kinds if kind.status == code]) for code in _codes(kinds)},
        "openapi_extra": {"parameters": [_DEADLINE], "security": [{_KEY: []}]},
    }
    if answer is not None:
        options["response_model"] = answer
    if media_type is not None:
        options["responses"][status] = {"content": {media_type: {"schema": {"type": "string"}}}}
    if body is not None:
        _bodies[body.__name__] = body
        content: dict[str, Any] = {
            JSON: {
                "schema": {"$ref": _REF.format(model=body.__name__)},
                "examples": {name: {"summary": name, "value": value} for name, value in (examples or {}).items()},
            }
        }
        if forms:
            content[FORM] = _form(body if forms is True else forms)
        options["openapi_extra"]["requestBody"] = {"required": True, "content": content}
    return options


def named(example: str) -> Any:
    """A name in a path, with one that works once the examples before it have run."""
    return Path(openapi_examples={example: {"value": example}})


def describe(app: FastAPI, *, has_keys: bool, longest_deadline: float) -> Callable[[], dict[str, Any]]:
    """What makes the document of an application, once.

    Args:
        app: with all its routes.
        has_keys: whether keys are asked for.
        longest_deadline: that a request may name, in seconds.
    """
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            models: list[type[BaseModel]] = [*_bodies.values(), ProblemDocument]
            _, defined = models_json_schema([(model, "validation") for model in models], ref_template=_REF)
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            schemas |= defined["$defs"]
            operations = [one for path in document["paths"].values() for one in path.values()]
            for parameter in (one for operation in operations for one in operation.get("parameters", ())):
                if parameter["name"] == DEADLINE:
                    parameter["schema"]["maximum"] = int(longest_deadline * 1000)
            if has_keys:
                document["components"]["securitySchemes"] = {_KEY: _SCHEME}
            else:
                for operation in operations:
                    operation.pop("security", None)
                    operation["responses"].pop("401", None)
            app.openapi_schema = document
        return app.openapi_schema

    return openapi


def _codes(kinds: set[Kind]) -> list[int]:
    return sorted({kind.status for kind in kinds})


def _response(kinds: list[Kind]) -> dict[str, Any]:
    titles = " / ".join(kind.title for kind in KINDS if kind in kinds)
    answer: dict[str, Any] = {
        "description": titles,
        "content": {problems.MEDIA_TYPE: {"schema": {"$ref": _REF.format(model=ProblemDocument.__name__)}}},
    }
    if kinds[0].status in (429, 503):
        answer["headers"] = {
            "Retry-After": {"description": "Seconds after which to ask again.", "schema": {"type": "integer"}}
        }
    return answer


def _form(body: type[BaseModel]) -> dict[str, Any]:
    """Fields as parts of a form, images as files."""
    schema = body.model_json_schema(ref_template=_REF)
    schema.pop("$defs", None)
    encoding = {}
    for name, field in schema["properties"].items():
        ways = [one for one in field.get("anyOf", ()) if one.get("type") != "null"]
        if len(ways) > 1:  # texts or images
            (many,) = (one for one in ways if one.get("type") == "array")
            schema["properties"][name] = many | {"items": {"type": "string", "format": "binary"}}
            encoding[name] = {"contentType": _IMAGES}
        elif ways:  # a part of a form is there or not; none is null
            (kept,) = ways
            del field["anyOf"]
            field |= kept
            field.pop("default", None)
        if field.get("format") == "image":
            schema["properties"][name] = {"type": "string", "format": "binary", "description": "A file."}
            encoding[name] = {"contentType": _IMAGES}
        elif field.get("items", {}).get("format") == "image":
            field["items"] = {"type": "string", "format": "binary"}
            encoding[name] = {"contentType": _IMAGES}
    return {"schema": schema, "encoding": encoding}
