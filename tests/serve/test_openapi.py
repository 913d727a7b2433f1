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
KNOWN_LATER = ("/v1/embeddings", "/v1/attention", "/v1/models", "/v1/collections")

schemathesis.openapi.format("image", st.sampled_from([base64.b64encode(image).decode() for image in IMAGES]))
for media_type in ("image/png", "image/jpeg", "image/webp", "image/gif"):
    schemathesis.openapi.media_type(media_type, st.sampled_from(IMAGES))


@pytest.fixture(scope="module")
def guarded(
    entries: tuple[str, ...], text_run: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Live, str]]:
    """A service of every kind of model with keys and an index on the disk, and a key for all of it."""
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    key = create_key(file, "tester", ["read", "write", "admin"], 1e6, 10**6)
    places = {"model_roots": (Path("/nonexistent"),), "index": str(tmp_path_factory.mktemp("index") / "index")}
    texts = tuple(str(text_run(task)) for task in ("translation", "sentiment"))
    with serving(models=entries + texts, backend="torch", api_keys=file, **places) as live:
        yield live, key


@pytest.fixture(scope="module")
def api(guarded: tuple[Live, str]) -> Any:
    api = schemathesis.openapi.from_dict(copy.deepcopy(guarded[0].app.openapi()))
    api.config.update(base_url=guarded[0].url)
    return api


@pytest.mark.parametrize(("path", "method"), OPERATIONS, ids=lambda part: part)
def test_nothing_contradicts_the_document(path: str, method: str, api: Any, guarded: tuple[Live, str]) -> None:
    excluded = [positive_data_acceptance] if path.startswith(KNOWN_LATER) else []
    headers = {"Authorization": f"Bearer {guarded[1]}"}
    for mode in GenerationMode:

        @settings(max_examples=20, suppress_health_check=list(HealthCheck))
        @given(case=api[path][method].as_strategy(generation_mode=mode))
        def check(case: Any) -> None:
            response = case.call(headers=headers)
            late = response.status_code == 504
            if late:  # the document allows a deadline of a millisecond, and says what comes of it
                assert "milliseconds" in response.json()["detail"]
                assert 1 <= int((case.headers or {})[DEADLINE]) < PATIENT
            case.validate_response(response, headers=headers, excluded_checks=[*excluded, *(LATE if late else ())])

        try:
            check()
        except Unsatisfiable:
            assert mode.is_negative  # nothing can be wrong with a request that has no parameters
