"""OpenAI's own client is answered as it expects."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from itertools import count

import numpy as np
import pytest
import structlog
from openai import APIError, NotFoundError, OpenAI, UnprocessableEntityError
from tests.serve.holding import engine_of
from tests.serve.live import Live, base64_of, picture, wait_for

MODEL = "scenes-vljepa"
TEXTS = ["a red circle", "two blue squares"]


@pytest.fixture
def openai(live: Live) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{live.url}/v1", api_key="none is needed", max_retries=0) as client:
        yield client


def test_it_embeds_as_it_does_without_being_told_how(openai: OpenAI) -> None:
    """In base64, which it asks for by itself and decodes."""
    image = "data:image/png;base64," + base64_of(picture())
    found = openai.embeddings.create(model=MODEL, input=[*TEXTS, image])
    assert (found.object, found.model) == ("list", MODEL)
    assert [one.index for one in found.data] == [0, 1, 2]
    vectors = np.array([one.embedding for one in found.data])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    plain = openai.embeddings.create(model=MODEL, input=TEXTS, encoding_format="float")
    np.testing.assert_allclose([one.embedding for one in plain.data], vectors[:2], atol=1e-6)
    raw = openai.embeddings.with_raw_response.create(model=MODEL, input=TEXTS[0])
    first = base64.b64decode(raw.http_response.json()["data"][0]["embedding"])
    np.testing.assert_allclose(np.frombuffer(first, "<f4"), vectors[0], atol=1e-6)


def test_it_lists_models_and_describes_one(openai: OpenAI) -> None:
    models = list(openai.models.list())
    assert {model.object for model in models} == {"model"}
    assert {"scenes-token", MODEL} <= {model.id for model in models}
    assert openai.models.retrieve(MODEL) == next(model for model in models if model.id == MODEL)


def test_it_completes_texts_as_a_whole_and_piece_by_piece(openai: OpenAI) -> None:
    ask = {"model": "characters", "prompt": "To be, or", "max_tokens": 20, "temperature": 0}
    whole = openai.completions.create(**ask).choices[0]
    assert (len(whole.text), whole.finish_reason) == (20, "length")
    pieces = list(openai.completions.create(stream=True, **ask))
    assert "".join(one.choices[0].text for one in pieces) == whole.text
    assert [one.choices[0].finish_reason for one in pieces] == [None] * (len(pieces) - 1) + ["length"]
    plain = openai.completions.create(**ask, top_p=None, stop=None, stream=None, n=1, user="me").choices[0]
    assert plain.text == whole.text
    stop = whole.text[9:12]
    stopped = openai.completions.create(stop=[stop], **ask).choices[0]
    assert (stopped.text, stopped.finish_reason) == (whole.text[: whole.text.index(stop)], "stop")


def test_what_fails_amid_a_stream_is_an_error_in_the_client_the_log_and_the_metrics(
    live: Live, openai: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, calls = engine_of(live.service.models.get("characters")), count()
    plain = engine.operations["advance"]
    failing = {"advance": lambda streams: plain(streams) if next(calls) < 2 else 1 / 0}
    monkeypatch.setattr(engine, "operations", {**engine.operations, **failing})
    failed = live.service.metrics.problems.labels("engine-failed")._value
    before, pieces = failed.get(), []
    stream = openai.completions.create(model="characters", prompt="To be", stream=True)
    with structlog.testing.capture_logs() as logs, pytest.raises(APIError, match="'characters' has failed; ask again"):
        pieces.extend(stream)
    assert len(pieces) == 2
    wait_for(lambda: failed.get() == before + 1)
    (told,) = (record for record in logs if record["event"] == "failed")
    assert isinstance(told["exc_info"], ZeroDivisionError)
    wait_for(lambda: live.service.models.get("characters").ready)


def test_arrays_of_token_ids_are_refused_by_name(openai: OpenAI) -> None:
    for tokens in ([1, 2, 3], [[1, 2], [3]]):
        with pytest.raises(UnprocessableEntityError) as refused:
            openai.embeddings.create(model=MODEL, input=tokens)
        fields = [error["field"] for error in refused.value.response.json()["errors"]]
        assert fields == [f"input[{at}]" for at in range(len(tokens))]


def test_what_is_wrong_is_an_error_of_its_kind_with_our_problem(openai: OpenAI) -> None:
    with pytest.raises(NotFoundError) as refused:
        openai.embeddings.create(model="text-embedding-3-small", input=TEXTS)
    assert refused.value.type == "urn:archlab:problem:not-found"
    assert refused.value.request_id
