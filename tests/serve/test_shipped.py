"""The service as it comes: without settings it serves both shipped arms, and these see what they are shown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.serve.live import Live, base64_of, png, serving

from archlab.config import RunConfig, load
from archlab.data.scenes.dataset import SceneDataConfig, build_scenes
from archlab.serve.settings import WEIGHTS
from archlab.train.card import variant_line

ARMS = ["scenes-token", "scenes-vljepa"]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with serving(backend="torch", index=str(tmp_path_factory.mktemp("index"))) as live:
        yield live


def test_both_arms_are_served_each_with_its_card(shipped: Live) -> None:
    with shipped.client() as client:
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ARMS
        for name in ARMS:
            card = client.get(f"/v1/models/{name}/card").text
            assert card == (WEIGHTS / name / "card.md").read_text(encoding="utf-8")
            assert variant_line(load(WEIGHTS / name / "config.yaml", RunConfig)) in card


@pytest.mark.parametrize("model", ARMS)
def test_a_shipped_arm_counts_what_it_sees(shipped: Live, model: str) -> None:
    """Far above chance on new pictures, and far above itself where each question is asked of another picture."""
    config = SceneDataConfig(train_images=1, validation_images=1, test_images=60)
    split = build_scenes(config)["test"]
    asked = [example for example in split.examples if example.kind == "count"][:40]
    words = list(split.candidates["count"])

    def right(shift: int) -> int:
        count = 0
        with shipped.client() as client:
            for example in asked:
                image = split.images[(example.image + shift) % len(split.images)]
                body = {
                    "image": base64_of(png(image)),
                    "question": example.queries[0],
                    "candidates": words,
                    "model": model,
                }
                count += client.post("/v1/answer", json=body).json()["answer"] == example.targets[0]
        return count

    assert right(0) >= 0.5 * len(asked)
    assert right(0) > right(7) + 0.15 * len(asked)  # the same questions about other pictures


def test_the_weights_that_come_with_the_package_are_small() -> None:
    assert sum(path.stat().st_size for path in Path(WEIGHTS).rglob("*") if path.is_file()) < 25e6
