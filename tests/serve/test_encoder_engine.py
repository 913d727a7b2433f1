"""A pretrained encoder embeds images, in the service and in collections of one's own vectors, and refuses words."""

from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
import torch
from tests.serve.live import base64_of, picture, problem

from archlab.evaluate.vectors import unit
from archlab.serve.opening import open_engine
from archlab.vl.encoder import FrozenEncoder


def test_vectors_are_the_mean_of_the_visual_tokens(tiny_encoder: Path, pictures: list[np.ndarray]) -> None:
    engine, encoder = open_engine(tiny_encoder), FrozenEncoder.load(str(tiny_encoder))
    found = np.stack(list(engine.operations["embed_images"](pictures, [""] * len(pictures))))
    expected = encoder.encode(torch.from_numpy(np.stack(pictures))).mean(1).numpy()
    np.testing.assert_allclose(found, unit(expected), atol=1e-6)
    assert found.shape[1] == engine.about.width == encoder.width
    assert not np.allclose(found[0], found[1])
    engine.probe()


def test_the_service_embeds_images_with_it_and_refuses_texts(client: httpx.Client) -> None:
    image = {"image": base64_of(picture())}
    (found,) = client.post("/v1/embeddings", json={"input": [image], "model": "encoder"}).json()["data"]
    np.testing.assert_allclose(np.linalg.norm(found["embedding"]), 1, atol=1e-6)
    for given in (["a"], [image, "a"]):
        answer = client.post("/v1/embeddings", json={"input": given, "model": "encoder"})
        (error,) = problem(answer, "invalid")["errors"]
        assert error["field"] == "model"
        assert error["rule"].startswith("must be able to embed texts, as scenes-token, scenes-vljepa can; 'encoder'")
