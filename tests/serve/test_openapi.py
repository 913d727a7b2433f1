"""The OpenAPI document is true: schemathesis asks what it allows and what it forbids, and finds nothing."""

from __future__ import annotations

import base64
import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core import NOT_SET
from schemathesis.core.parameters import ParameterLocation
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from tests.serve.live import Live, picture, serving

from archlab.serve.app import create_app
from archlab.serve.auth import create_key
from archlab.serve.middleware.patience import DEADLINE
from archlab.serve.settings import Settings

IMAGES = [picture(colour, kind=kind) for colour, kind in (("red", "PNG"), ("blue", "JPEG"), ("white", "GIF"))]
DOCUMENT = create_app(Settings.model_construct()).openapi()
OPERATIONS = [(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods]
# Their bodies have rules that only a loaded model or a collection knows, such as its width, or that bind two fields.
LATE = [not_a_server_error, positive_data_acceptance, negative_data_rejection]
PATIENT = 5_000  # milliseconds that are enough for every answer
KNOWN_LATER = ("/v1/embeddings", "/v1/completions", "/v1/attention", "/v1/models", "/v1/collections")
COLLECTION, MODEL = "pictures", "spare"  # which are there: a name that is drawn never is, and all ends with 404

schemathesis.openapi.format("image", st.sampled_from([base64.b64encode(image).decode() for image in IMAGES]))
for media_type in ("image/png", "image/jpeg", "image/webp", "image/gif"):
    schemathesis.openapi.media_type(media_type, st.sampled_from(IMAGES))


@pytest.fixture(scope="module")
def guarded(all_entries: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Live, str]]:
    """A service of every kind of model with keys and an index on the disk, in processes as by default, and a key for
    all of it."""
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    key = create_key(file, "tester", ["read", "write", "admin"], 1e6, 10**6)
    places = {"model_roots": (Path("/nonexistent"),), "index": str(tmp_path_factory.mktemp("index") / "index")}
    with serving(models=all_entries, backend="torch", engines="process", api_keys=file, **places) as live:
        live.service.models._isolated = False  # what `present` makes anew for one example after the other
        yield live, key


@pytest.fixture(scope="module")
def api(guarded: tuple[Live, str]) -> Any:
    api = schemathesis.openapi.from_dict(copy.deepcopy(guarded[0].app.openapi()))
    api.config.update(base_url=guarded[0].url)
    return api


@pytest.fixture(scope="module")
def present(guarded: tuple[Live, str], runs: dict[str, Path]) -> Callable[[str], str]:
    """`present(path)`: the name of the collection or model that a path is about; made anew where it was removed."""
    live, key = guarded
    points = [
        {"id": colour, "text": f"a {colour} circle", "metadata": {"colour": colour}} for colour in ("red", "blue")
    ]

    def made(path: str) -> str:
        if path.startswith("/v1/models"):
            if MODEL not in (model.name for model in live.service.models.list()):
                live.run(live.service.models.load(MODEL, runs["scenes-token"], backend="torch"))
            return MODEL
        with live.client(headers={"Authorization": f"Bearer {key}"}) as client:
            if client.get(f"/v1/collections/{COLLECTION}").json().get("points", 0) < len(points):
                assert client.post("/v1/collections", json={"name": COLLECTION}).status_code in (201, 409)
                stored = client.put(f"/v1/collections/{COLLECTION}/points", json={"points": points})
                assert stored.status_code == 200, stored.text
        return COLLECTION

    return made


@pytest.mark.parametrize(("path", "method"), OPERATIONS, ids=lambda part: part)
def test_nothing_contradicts_the_document(
    path: str, method: str, api: Any, guarded: tuple[Live, str], present: Callable[[str], str]
) -> None:
    headers = {"Authorization": f"Bearer {guarded[1]}"}
    statuses = set[int]()  # of what was asked about what is there
    for mode in GenerationMode:

        @settings(max_examples=20, suppress_health_check=list(HealthCheck))
        @given(case=api[path][method].as_strategy(generation_mode=mode), there=st.booleans())
        def check(case: Any, there: bool) -> None:
            there = there and "{name}" in path and not case.meta.components[ParameterLocation.PATH].mode.is_negative
            if there:
                case.path_parameters["name"] = present(path)
            # About what is there, all is allowed that has no body with rules of its own.
            later = path.startswith(KNOWN_LATER) and not (there and case.body is NOT_SET)
            excluded = [positive_data_acceptance] if later else []
            response = case.call(headers=headers)
            if there:
                statuses.add(response.status_code)
            late = response.status_code == 504
            if late:  # the document allows a deadline of a millisecond, and says what comes of it
                assert "milliseconds" in response.json()["detail"]
                assert 1 <= int((case.headers or {})[DEADLINE]) < PATIENT
            case.validate_response(response, headers=headers, excluded_checks=[*excluded, *(LATE if late else ())])

        try:
            check()
        except Unsatisfiable:
            assert mode.is_negative  # nothing can be wrong with a request that has no parameters
    assert "{name}" not in path or statuses & {200, 204}
