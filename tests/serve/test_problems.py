"""Promises of problem documents: they name field and rule, and never what must stay inside."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from tests.serve.live import base64_of, picture

from archlab.serve import problems
from archlab.serve.errors import EngineFailed, Expired, NotReady, Overloaded
from archlab.serve.problems import KINDS, Problem, ProblemDocument, from_errors, from_serve_error, from_status, invalid
from archlab.serve.routes.answer import AnswerRequest
from archlab.serve.routes.embeddings import EmbeddingsRequest

IMAGE = base64_of(picture())


def refused(kind: Any, **values: object) -> list[tuple[str, str, str]]:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(values)
    found = from_errors(caught.value.errors(), kind.model_fields)
    assert found.kind is problems.INVALID
    return [(one.field, one.pointer, one.rule) for one in found.errors]


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"image": IMAGE}, ("question", "#/question", "is missing")),
        ({"image": IMAGE, "question": " "}, ("question", "#/question", "must match")),
        ({"image": IMAGE, "question": "q", "candidate": 1}, ("candidate", "#/candidate", "did you mean 'candidates'")),
        (
            {"image": IMAGE, "question": "q", "candidates": ["a", ""]},
            ("candidates[1]", "#/candidates/1", "must have at least 1 character, not ''"),
        ),
        ({"image": IMAGE, "question": "q", "candidates": ["a", "a"]}, ("candidates", "#/candidates", "different; 'a'")),
        ({"image": 3, "question": "q"}, ("image", "#/image", "must be an image in base64")),
        ({"image": "", "question": "q"}, ("image", "#/image", "is empty")),
        ({"image": "http://a.b/c.png", "question": "q"}, ("image", "#/image", "never fetched from a URL")),
        ({"image": "file:///etc/passwd", "question": "q"}, ("image", "#/image", "never fetched from a URL")),
        ({"image": "data:text/html;base64,AAAA", "question": "q"}, ("image", "#/image", "data URL 'data:image/")),
    ],
)
def test_a_broken_rule_names_field_pointer_and_rule(values: dict[str, object], error: tuple[str, str, str]) -> None:
    ((field, pointer, rule),) = refused(AnswerRequest, **values)
    assert (field, pointer) == error[:2]
    assert error[2] in rule


def test_items_of_a_list_are_named_by_their_place_and_not_by_what_was_tried() -> None:
    assert refused(EmbeddingsRequest, input=["a", {"text": ""}, {"image": "ftp://x"}, 4])[0][0] == "input[1].text"
    assert [one[0] for one in refused(EmbeddingsRequest, input=["a", {"image": "ftp://x/"}, 4])] == [
        "input[1].image",
        "input[2]",
    ]


def test_names_that_are_no_identifiers_are_named_all_the_same() -> None:
    for name in ("", "a b", "ä.[]", "<text>"):
        found = refused(EmbeddingsRequest, **{"input": "x", name: 1})
        assert [one[2].startswith("is unknown") for one in found] == [True]
    assert refused(EmbeddingsRequest, **{"input": "x", "a/b~c": 1})[0][1] == "#/a~1b~0c"


def test_a_large_value_is_not_repeated() -> None:
    ((_, _, rule),) = refused(AnswerRequest, image=IMAGE, question="x" * 5000)
    assert len(rule) < 200


def test_many_errors_are_cut() -> None:
    assert len(refused(EmbeddingsRequest, input=[""] * 100)) == 20


def test_kinds_differ_and_are_errors() -> None:
    assert len({kind.slug for kind in KINDS}) == len(KINDS) >= 15
    assert all(400 <= kind.status < 600 for kind in KINDS)


def test_the_document_is_as_the_schema_says() -> None:
    answer = Problem(problems.OVERLOADED, "full", retry_after=1.2).response("abc")
    document = ProblemDocument.model_validate_json(answer.body)
    assert (document.status, document.instance) == (429, "urn:archlab:request:abc")
    assert answer.headers["retry-after"] == "2"


@pytest.mark.parametrize(
    ("error", "status", "retry"),
    [
        (Overloaded("full", 3.2), 429, "4"),
        (Expired("late"), 504, None),
        (NotReady("loading", 5), 503, "5"),
        (EngineFailed("failed", 0.2), 503, "1"),
    ],
)
def test_what_the_engine_room_refuses_has_its_status(error: Any, status: int, retry: str | None) -> None:
    problem = from_serve_error(error)
    assert (problem.kind.status, problem.headers.get("Retry-After")) == (status, retry)


def test_what_the_framework_refuses_is_a_problem_too() -> None:
    assert from_status(404, "Not Found").kind is problems.NOT_FOUND
    assert from_status(429, "x").kind is problems.RATE_LIMITED
    assert from_status(418, "teapot").kind.uri == "urn:archlab:problem:http-418"


def test_one_field_is_named_as_in_the_request() -> None:
    problem = invalid("input[3].image", "is damaged")
    assert problem.errors[0].pointer == "#/input/3/image"
    assert problem.detail == "input[3].image: is damaged"
