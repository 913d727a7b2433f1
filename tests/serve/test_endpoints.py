"""Promises of the endpoints, asked over HTTP with tiny runs of both arms."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import numpy as np
import pytest
from tests.serve.holding import engine_of
from tests.serve.live import Live, base64_of, documented, picture, problem

from archlab.compare.cost import cost_per_1000_requests

RED, BLUE = picture("red"), picture("blue")
LABELS = ["red circle", "blue square", "green triangle"]


def test_every_example_of_the_documentation_runs_in_its_order(live: Live, client: httpx.Client) -> None:
    asked = documented(live)
    assert len(asked) >= 30
    for method, path, body in asked:
        answer = client.request(method, path, json=body)
        assert answer.is_success, (method, path, body, answer.text)
    assert client.delete("/v1/collections/pictures").is_success


def test_embeddings_are_those_of_the_model_in_the_order_of_the_input(live: Live, client: httpx.Client) -> None:
    texts = ["a red circle", "a blue square"]
    body = {"input": [texts[0], {"image": base64_of(RED)}, {"text": texts[1]}], "model": "scenes-vljepa"}
    answer = client.post("/v1/embeddings", json=body).json()
    model = live.service.models.get("scenes-vljepa")
    vectors = np.array([one["embedding"] for one in answer["data"]], np.float32)
    assert [one["index"] for one in answer["data"]] == [0, 1, 2]
    assert np.allclose(vectors[[0, 2]], live.run(model.embed_texts(texts)), atol=1e-6)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert answer["model"] == "scenes-vljepa"
    assert answer["usage"] == {"prompt_tokens": 3, "total_tokens": 3}


def test_embeddings_in_base64_are_the_same_numbers(client: httpx.Client) -> None:
    """OpenAI's clients ask so unless told otherwise."""
    plain, packed = (
        client.post("/v1/embeddings", json={"input": "a red circle", "encoding_format": form}).json()["data"][0]
        for form in ("float", "base64")
    )
    assert np.allclose(np.frombuffer(base64.b64decode(packed["embedding"]), "<f4"), plain["embedding"])


def test_a_data_url_is_an_image_however_it_is_sent(client: httpx.Client) -> None:
    url = f"data:image/png;base64,{base64_of(RED)}"
    plain, listed, named = (
        client.post("/v1/embeddings", json={"input": given}).json()["data"][0]["embedding"]
        for given in (url, [url], [{"image": base64_of(RED)}])
    )
    assert plain == listed == named


def test_files_of_a_form_are_embedded_beside_texts(client: httpx.Client) -> None:
    files = [("input", ("red.png", RED)), ("input", ("blue.png", BLUE)), ("input", (None, "a red circle"))]
    sent = client.post("/v1/embeddings", files=files, data={"model": "scenes-vljepa"})
    listed = [{"image": base64_of(RED)}, {"image": base64_of(BLUE)}, "a red circle"]
    assert sent.json() == client.post("/v1/embeddings", json={"input": listed, "model": "scenes-vljepa"}).json()
    (one,) = client.post("/v1/embeddings", files={"input": RED}).json()["data"]
    assert np.allclose(one["embedding"], sent.json()["data"][0]["embedding"], atol=1e-5)


def test_the_question_changes_the_embedding_of_an_image(client: httpx.Client) -> None:
    images = [{"image": base64_of(RED), "text": text} for text in ("what colour is it", "how many are there")]
    one, two = (item["embedding"] for item in client.post("/v1/embeddings", json={"input": images}).json()["data"])
    assert one != two


def test_texts_beside_images_are_refused_where_a_model_has_no_common_space_for_them(
    live: Live, client: httpx.Client
) -> None:
    token = {"model": "scenes-token"}
    answer = client.post("/v1/embeddings", json={"input": ["a red circle", {"image": base64_of(RED)}], **token})
    assert "texts alone or images alone" in problem(answer, "invalid")["errors"][0]["rule"]
    for alone in ("a red circle", {"image": base64_of(RED)}):
        assert client.post("/v1/embeddings", json={"input": alone, **token}).status_code == 200


def test_other_dimensions_than_the_models_are_refused(live: Live, client: httpx.Client) -> None:
    width = live.service.models.get("scenes-vljepa").width
    assert client.post("/v1/embeddings", json={"input": "a", "dimensions": width}).status_code == 200
    answer = client.post("/v1/embeddings", json={"input": "a", "dimensions": width + 1})
    assert problem(answer, "invalid")["errors"][0]["field"] == "dimensions"


@pytest.mark.parametrize("model", ["scenes-token", "scenes-vljepa"])
def test_labels_get_probabilities_and_the_likeliest_is_first(client: httpx.Client, model: str) -> None:
    body = {"image": base64_of(RED), "labels": LABELS, "model": model}
    answer = client.post("/v1/classify", json=body).json()
    values = [one["probability"] for one in answer["labels"]]
    assert values == sorted(values, reverse=True)
    assert sum(values) == pytest.approx(1, abs=1e-5)
    assert {one["text"] for one in answer["labels"]} == set(LABELS)
    assert answer["label"] == answer["labels"][0]["text"]
    assert answer["model"] == model


def test_a_form_gives_the_same_answer_as_json(client: httpx.Client) -> None:
    json_answer = client.post("/v1/classify", json={"image": base64_of(RED), "labels": LABELS}).json()
    assert client.post("/v1/classify", files={"image": RED}, data={"labels": LABELS}).json() == json_answer
    assert client.post(
        "/v1/classify", files={"image": ("x.gif", RED, "image/gif")}, data={"labels": LABELS}
    ).json() == (json_answer)


@pytest.mark.parametrize("model", ["scenes-token", "scenes-vljepa"])
def test_a_question_is_answered_in_words_or_with_a_candidate(live: Live, client: httpx.Client, model: str) -> None:
    body: dict[str, Any] = {"image": base64_of(RED), "question": "what colour is this", "model": model}
    spoken = client.post("/v1/answer", json=body).json()
    assert spoken["decode_steps"] >= 1
    assert 0 <= spoken["confidence"] <= 1
    assert spoken["candidates"] is None
    chosen = client.post("/v1/answer", json={**body, "candidates": LABELS}).json()
    assert chosen["answer"] == chosen["candidates"][0]["text"]
    assert chosen["confidence"] == chosen["candidates"][0]["probability"]
    assert chosen["decode_steps"] == 0


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for block in text.strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines())
        found.append((lines.get("event", "message"), json.loads(lines["data"])))
    return found


@pytest.mark.parametrize("model", ["scenes-token", "scenes-vljepa"])
def test_a_streamed_caption_is_the_caption(client: httpx.Client, model: str) -> None:
    body = {"image": base64_of(RED), "model": model}
    whole = client.post("/v1/caption", json=body).json()
    streamed = client.post("/v1/caption", json={**body, "stream": True})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    *pieces, last = events(streamed.text)
    assert "".join(data["text"] for _, data in pieces).strip() == whole["caption"]
    assert last == ("done", {"model": model})
    assert {name for name, _ in pieces} <= {"message"}


def test_what_is_wrong_before_the_first_piece_is_a_status(client: httpx.Client) -> None:
    problem(client.post("/v1/caption", json={"image": base64_of(b"none"), "stream": True}), "unsupported-media-type")


def test_compare_asks_both_arms_the_same_and_says_what_each_took(live: Live, client: httpx.Client) -> None:
    body = {"image": base64_of(RED), "question": "what colour is this"}
    pixels = live.run(live.service.images.read(RED, live.service.models.get("scenes-token").image_size, "image", "me"))
    answer = client.post("/v1/compare", json=body).json()
    assert [arm["arm"] for arm in answer["arms"]] == ["token", "vljepa"]
    for arm in answer["arms"]:
        model = live.service.models.get(arm["model"])
        assert arm["flops"] == engine_of(model).flops([pixels], [body["question"]], [None])[0] > 1e5
        alone = client.post("/v1/answer", json={**body, "model": arm["model"]}).json()
        assert {name: arm[name] for name in alone} == alone
        # The fixture's machine costs 2.0 an hour.
        assert arm["cost_per_1000"] == pytest.approx(cost_per_1000_requests(1000 / arm["latency_ms"], 2.0), rel=1e-2)
    assert answer["agree"] == (answer["arms"][0]["answer"] == answer["arms"][1]["answer"])


def test_compare_with_candidates_chooses_among_them(client: httpx.Client) -> None:
    answer = client.post("/v1/compare", files={"image": RED}, data={"question": "q", "candidates": LABELS}).json()
    assert all(arm["answer"] in LABELS and arm["decode_steps"] == 0 for arm in answer["arms"])


def test_attention_maps_are_distributions_over_named_tokens(client: httpx.Client) -> None:
    body = {"image": base64_of(RED), "question": "what colour is this"}
    answer = client.post("/v1/attention", json=body).json()
    maps = np.array(answer["maps"])
    count = len(answer["tokens"])
    assert maps.shape == (len(answer["layers"]), len(answer["heads"]), count, count)
    assert np.allclose(maps.sum(-1), 1, atol=1e-4)
    assert 0 < answer["visual"] < count
    one = client.post("/v1/attention", json={**body, "layer": 1, "head": 0}).json()
    assert (one["layers"], one["heads"]) == ([1], [0])
    assert np.array_equal(np.array(one["maps"])[0, 0], maps[1, 0])
    field = problem(client.post("/v1/attention", json={**body, "layer": 2}), "invalid")["errors"][0]
    assert (field["field"], field["rule"]) == ("layer", "must be less than 2, not 2")


def test_a_model_that_is_not_loaded_is_not_found(client: httpx.Client) -> None:
    document = problem(client.post("/v1/embeddings", json={"input": "a", "model": "gpt-5"}), "not-found")
    assert "scenes-token" in document["detail"]


@pytest.mark.parametrize("image", [b"GIF89a", picture(kind="BMP"), picture()[:40]])
def test_a_bad_image_names_its_field(client: httpx.Client, image: bytes) -> None:
    answer = client.post("/v1/embeddings", json={"input": ["a", {"image": base64_of(image)}]})
    assert answer.status_code in (415, 422)
    assert answer.json()["errors"][0]["field"] == "input[1].image"
    assert answer.json()["errors"][0]["pointer"] == "#/input/1/image"


def test_a_url_is_refused_and_nothing_is_fetched(client: httpx.Client) -> None:
    error = problem(client.post("/v1/answer", json={"image": "https://a.b/c.png", "question": "q"}), "invalid")
    assert "images are never fetched from a URL" in error["errors"][0]["rule"]


def test_models_of_text_translate_and_tell_sentiments(client: httpx.Client) -> None:
    texts = ["man dog", "woman"]
    answer = client.post("/v1/translate", json={"texts": texts}).json()
    assert answer["translations"] == ["homme chien", "femme"]
    assert answer["model"] == "translation"
    (first, second) = client.post("/v1/sentiment", json={"texts": ["a good film", "a bad film"]}).json()["sentiments"]
    assert sum(one["probability"] for one in first) == pytest.approx(1, abs=1e-5)
    assert first[0]["text"] != second[0]["text"]


def test_a_model_of_another_kind_says_which_can(client: httpx.Client) -> None:
    answer = client.post("/v1/translate", json={"texts": ["man"], "model": "scenes-token"})
    (error,) = problem(answer, "invalid")["errors"]
    assert error["field"] == "model"
    assert error["rule"] == "must be able to translate, as translation can; 'scenes-token' is a token model"


def test_models_are_listed_as_openais_clients_expect_them(live: Live, client: httpx.Client) -> None:
    answer = client.get("/v1/models").json()
    assert [one["id"] for one in answer["data"]] == [
        "characters",
        "encoder",
        "scenes-token",
        "scenes-vljepa",
        "sentiment",
        "translation",
    ]
    assert all(one["object"] == "model" and one["default"] and one["ready"] for one in answer["data"])
    one = client.get("/v1/models/scenes-vljepa").json()
    assert one in answer["data"]
    assert one["width"] == live.service.models.get("scenes-vljepa").width
    card = client.get("/v1/models/scenes-vljepa/card")
    assert card.text == live.service.models.get("scenes-vljepa").card
    assert card.headers["content-type"].startswith("text/markdown")
    problem(client.get("/v1/models/none"), "not-found")
    problem(client.get("/v1/models/none/card"), "not-found")


def test_health_is_green_and_the_version_is_known(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"ok": True, "reason": ""}
    assert client.get("/readyz").json() == {"ok": True, "reason": ""}
    assert client.get("/version").json()["archlab"]
