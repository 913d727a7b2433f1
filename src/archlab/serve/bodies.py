"""Request bodies: read within limits of size and time, parsed as JSON or as a form, and checked.

FastAPI's own reading has no limit, and it takes a body as a form or as JSON but not as either; so this is ours.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from archlab.serve import problems
from archlab.serve.problems import Problem, from_errors, invalid

Parsed = TypeVar("Parsed", bound=BaseModel)
_MOST_FILES, _MOST_FIELDS = 256, 1024
JSON, FORM = "application/json", "multipart/form-data"


class File(bytes):
    """A file of a form.

    Attributes:
        name: that it was sent under; may be empty.
    """

    name: str


def announced_size(headers: Headers, most: int) -> int:
    """Bytes that a body will have; one that does not say counts as the largest.

    Raises:
        Problem: it is larger than `most`.
    """
    stated = headers.get("content-length", "")
    size = int(stated) if stated.isdecimal() else most
    if size > most:
        raise _too_large(most)
    return size


async def read(request: Request, kind: type[Parsed], *, most: int, seconds: float, form: type[Parsed] | None) -> Parsed:
    """The body of a request as a model.

    Args:
        request: whose body was not read yet.
        kind: of model, in JSON.
        most: bytes.
        seconds: for the body to arrive.
        form: of model, in `multipart/form-data`; None: that is not read.

    Raises:
        Problem: the body is too large, too slow, of another media type, damaged, or breaks a rule.
    """
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    allowed = [JSON, FORM] if form else [JSON]
    if media not in allowed:
        rule = f"must be {' or '.join(allowed)}, not {media or '(none)'}"
        problem = invalid("Content-Type", rule, problems.UNSUPPORTED_MEDIA_TYPE)
        problem.headers["Accept-Post"] = ", ".join(allowed)
        raise problem
    if form is not None and media == FORM:
        kind = form
    try:
        async with asyncio.timeout(seconds):
            if media == FORM:
                values = await _form(request, kind, most)
            else:
                raw = b"".join([chunk async for chunk in _limited(request, most)])
    except TimeoutError:
        raise Problem(problems.SLOW_BODY, f"The body must arrive within {seconds:g} seconds.") from None
    except MultiPartException as error:
        raise Problem(problems.MALFORMED, f"The form cannot be read: {error.message}") from None
    try:
        # JSON has types and must use them; in a form everything is text.
        return kind.model_validate(values) if media == FORM else kind.model_validate_json(raw, strict=True)
    except ValidationError as error:
        raise from_errors(error.errors(include_url=False), kind.model_fields) from None


async def _limited(request: Request, most: int) -> AsyncGenerator[bytes, None]:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            raise _too_large(most)
        yield chunk


class _InMemory(MultiPartParser):
    spool_max_size = 2**40  # never a temporary file: the size is limited, and the disk may be read-only


async def _form(request: Request, kind: type[BaseModel], most: int) -> dict[str, Any]:
    """The fields of a form; a field that is a list may be given several times, and files are `File`s."""
    parser = _InMemory(
        request.headers,
        _limited(request, most),
        max_files=_MOST_FILES,
        max_fields=_MOST_FIELDS,
        max_part_size=most,
    )
    form = await parser.parse()
    values: dict[str, Any] = {}
    for name in form:
        parts = [await _file(part) if isinstance(part, UploadFile) else part for part in form.getlist(name)]
        values[name] = parts if len(parts) > 1 or _is_list(kind, name) else parts[0]
    await form.close()
    return values


async def _file(part: UploadFile) -> File:
    file = File(await part.read())
    file.name = part.filename or ""
    return file


def _is_list(kind: type[BaseModel], name: str) -> bool:
    field = kind.model_fields.get(name)
    return field is not None and "list[" in str(field.annotation)


def _too_large(most: int) -> Problem:
    return invalid("body", f"must have at most {most} bytes", problems.TOO_LARGE)
