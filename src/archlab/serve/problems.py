"""Every error that the service answers is a problem document (RFC 9457) that names what is wrong, where, and the rule.

A slug identifies the kind of problem for programs (`type`), `detail` says it to people, and `errors` lists the fields.
Nothing of a traceback is in it: the log has that, under the same request id.
"""

import difflib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import structlog
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from archlab.serve.context import RequestContext
from archlab.serve.errors import EngineFailed, Expired, NotReady, Overloaded, ServeError

MEDIA_TYPE = "application/problem+json"
BRANCHES = ("<text>", "<text item>", "<image item>")
"""Tags of the members of unions, which pydantic puts into the path of an error."""

_SHOWN = 80  # characters of a refused value that an answer repeats
_SUBJECT = re.compile(r"^\w+ should ")  # pydantic's "String should have …"


@dataclass(frozen=True)
class Kind:
    """A kind of problem."""

    slug: str
    status: int
    title: str

    @property
    def uri(self) -> str:
        return f"urn:archlab:problem:{self.slug}"


MALFORMED = Kind("malformed", 400, "The body cannot be read")
UNAUTHENTICATED = Kind("unauthenticated", 401, "An API key is needed")
FORBIDDEN = Kind("forbidden", 403, "Not allowed")
NOT_FOUND = Kind("not-found", 404, "There is no such thing")
METHOD_NOT_ALLOWED = Kind("method-not-allowed", 405, "This method is not allowed here")
SLOW_HEAD = Kind("slow-head", 408, "The head of the request took too long to arrive")
SLOW_BODY = Kind("slow-body", 408, "The body took too long to arrive")
CONFLICT = Kind("conflict", 409, "Not possible in the present state")
TOO_LARGE = Kind("too-large", 413, "More than is read")
UNSUPPORTED_MEDIA_TYPE = Kind("unsupported-media-type", 415, "This media type is not read here")
INVALID = Kind("invalid", 422, "A value breaks its rule")
RATE_LIMITED = Kind("rate-limited", 429, "This key asks too fast")
OVERLOADED = Kind("overloaded", 429, "The service is full")
HEAD_TOO_LARGE = Kind("head-too-large", 431, "More headers than are read")
INTERNAL = Kind("internal", 500, "A defect of the service")
NOT_READY = Kind("not-ready", 503, "Not ready")
ENGINE_FAILED = Kind("engine-failed", 503, "The model failed")
EXPIRED = Kind("expired", 504, "The deadline passed")

KINDS = [value for value in globals().values() if isinstance(value, Kind)]
_BY_STATUS = {kind.status: kind for kind in reversed(KINDS)}  # the first of a status, where two share it


class FieldError(BaseModel):
    """One field that breaks a rule."""

    field: str = Field(description="The field, as in `labels[2]`.", examples=["labels[2]"])
    pointer: str = Field(description="JSON Pointer to it (RFC 6901).", examples=["#/labels/2"])
    rule: str = Field(description="What it must be.", examples=["must not be blank"])


class ProblemDocument(BaseModel):
    """An error, as RFC 9457 describes it."""

    type: str = Field(description="Identifies the kind of problem.", examples=["urn:archlab:problem:invalid"])
    title: str = Field(description="The kind of problem in words.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What is wrong with this request, and what to do about it.")
    instance: str = Field(description="Identifies this occurrence; the log has the same request id.")
    errors: list[FieldError] = Field(default=[], description="The fields that break rules.")


class Problem(Exception):
    """Ends a request with a problem document.

    Args:
        kind: of the problem.
        detail: what is wrong, in one sentence.
        errors: the fields that break rules.
        retry_after: seconds after which the same request may succeed.
        headers: further headers of the answer.
    """

    def __init__(
        self,
        kind: Kind,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        retry_after: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind, self.detail, self.errors = kind, detail, list(errors)
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(max(1, math.ceil(retry_after)))

    def document(self, request_id: str) -> dict[str, Any]:
        """The document; see `ProblemDocument`."""
        return {
            "type": self.kind.uri,
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": self.detail,
            "instance": f"urn:archlab:request:{request_id}",
            "errors": [error.model_dump() for error in self.errors],
        }

    def response(self, request_id: str) -> Response:
        """The answer."""
        return Response(orjson.dumps(self.document(request_id)), self.kind.status, self.headers, MEDIA_TYPE)


def invalid(field: str, rule: str, kind: Kind = INVALID) -> Problem:
    """One field breaks a rule; `field` is written as in `labels[2]`, and is "body" for the whole body."""
    path = [] if field == "body" else [part.rstrip("]") for part in field.replace("[", ".").split(".")]
    return Problem(kind, f"{field}: {rule}", errors=[FieldError(field=field, pointer=_pointer(path), rule=rule)])


def from_errors(found: Sequence[Any], names: Iterable[str]) -> Problem:
    """The fields that pydantic refused.

    Args:
        found: as `ValidationError.errors` tells them.
        names: of the fields there are, for suggestions.
    """
    if found[0]["type"] == "json_invalid":
        return Problem(MALFORMED, f"The body is not valid JSON: {found[0]['msg'].removeprefix('Invalid JSON: ')}.")
    errors = [_field_error(one, list(names)) for one in found]
    unique = list({one.pointer + one.rule: one for one in errors}.values())
    return Problem(INVALID, "; ".join(f"{one.field}: {one.rule}" for one in unique[:3]), errors=unique[:20])


def from_serve_error(error: ServeError) -> Problem:
    """What the engine room refused."""
    kinds = {Overloaded: OVERLOADED, Expired: EXPIRED, NotReady: NOT_READY, EngineFailed: ENGINE_FAILED}
    return Problem(kinds[type(error)], f"{error}.", retry_after=error.retry_after)


def of(error: Exception) -> Problem:
    """What ended a request."""
    match error:
        case Problem():
            return error
        case ServeError():
            return from_serve_error(error)
        case HTTPException():
            return from_status(error.status_code, str(error.detail), dict(error.headers or {}))
        case RequestValidationError():
            return from_errors(error.errors(), ())
    return Problem(INVALID, f"{error}.")


def noted(problem: Problem, context: RequestContext, cause: BaseException | None) -> Problem:
    """The same problem, of which the request's own record, the metrics and, if it is ours to mend, the log know."""
    context.problem = problem.kind.slug
    if problem.kind.status >= 500:  # what caused it is for the log alone
        log = structlog.get_logger()
        log.error("failed", request_id=context.request_id, detail=problem.detail, exc_info=cause)
    return problem


def from_status(status: int, detail: str, headers: dict[str, str] | None = None) -> Problem:
    """What the framework refused: unknown paths and methods, forms that are none."""
    kind = _BY_STATUS.get(status) or Kind(f"http-{status}", status, detail)
    return Problem(kind, detail, headers=headers)


def _field_error(error: Any, names: list[str]) -> FieldError:
    path = [part for part in error["loc"] if part not in BRANCHES]
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".") or "body"
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(error["loc"][-1]), names, n=1)
        rule = f"is unknown; did you mean {near[0]!r}?" if near else f"is unknown; the fields are {', '.join(names)}"
    elif error["type"] == "missing":
        rule = "is missing"
    else:
        message = error["msg"].removeprefix("Value error, ").replace(" after validation", "")
        rule = _SUBJECT.sub("must ", message, count=1)
        shown = repr(error["input"])
        if isinstance(error["input"], str | int | float) and len(shown) <= _SHOWN:
            rule += f", not {shown}"
    return FieldError(field=field, pointer=_pointer(path), rule=rule)


def _pointer(path: Iterable[object]) -> str:
    """A JSON Pointer as a fragment."""
    return "#" + "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in path)
