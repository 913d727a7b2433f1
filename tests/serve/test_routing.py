"""Promises of direct routes: they give endpoints what they name, and refuse endpoints that name anything else."""

from __future__ import annotations

from typing import Annotated

import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.testclient import TestClient
from starlette.responses import PlainTextResponse, Response

from archlab.serve.routing import DirectRoute


async def colour(request: Request) -> str:
    if "colour" not in request.query_params:
        raise HTTPException(422, "which colour?")
    return request.query_params["colour"]


Colour = Annotated[str, Depends(colour)]


@pytest.fixture
def client() -> TestClient:
    router = APIRouter(route_class=DirectRoute)

    @router.get("/shapes/{name}")
    async def shape(name: str, colour: Colour, request: Request) -> Response:
        return PlainTextResponse(f"a {colour} {name} for {request.headers['x-caller']}")

    app = FastAPI()
    app.include_router(router)
    return TestClient(app)


def test_an_endpoint_gets_the_path_the_request_and_what_its_dependencies_make(client: TestClient) -> None:
    answer = client.get("/shapes/circle", params={"colour": "red"}, headers={"X-Caller": "a test"})
    assert (answer.status_code, answer.text) == (200, "a red circle for a test")


def test_what_a_dependency_raises_is_the_answer(client: TestClient) -> None:
    answer = client.get("/shapes/circle")
    assert (answer.status_code, answer.json()) == (422, {"detail": "which colour?"})


def test_it_is_in_the_description(client: TestClient) -> None:
    (parameter,) = client.get("/openapi.json").json()["paths"]["/shapes/{name}"]["get"]["parameters"]
    assert parameter["name"] == "name"


def test_an_endpoint_that_takes_anything_else_is_refused() -> None:
    router = APIRouter(route_class=DirectRoute)

    async def shape(name: str, size: int) -> Response:
        return PlainTextResponse(f"{name} {size}")

    with pytest.raises(TypeError, match=r"/shapes/\{name\}: takes size, which no direct route has"):
        router.get("/shapes/{name}", response_model=None)(shape)
