"""The service as it comes: without settings it serves both shipped arms, and these see what they are shown."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.serve.live import Live, base64_of, documented, picture, png, problem, serving

from archlab.config import PretrainConfig, RunConfig, load
from archlab.data.scenes.dataset import SceneDataConfig, build_scenes
from archlab.serve.settings import WEIGHTS
from archlab.train.card import variant_line

ARMS = ["scenes-token", "scenes-vljepa"]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """As the container has it: the only other checkpoints that may be loaded lie in a volume, which is empty."""
    roots = (tmp_path_factory.mktemp("runs"),)
    with serving(backend="torch", index=str(tmp_path_factory.mktemp("index")), model_roots=roots) as live:
        yield live


def test_both_arms_are_served_each_with_its_card(shipped: Live) -> None:
    with shipped.client() as client:
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ARMS
        for name in ARMS:
            card = client.get(f"/v1/models/{name}/card").text
            assert card == (WEIGHTS / name / "card.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("card", sorted(WEIGHTS.glob("*/card.md")), ids=lambda card: card.parent.name)
def test_the_card_of_a_shipped_checkpoint_says_which_variant_it_is(card: Path) -> None:
    config = load(card.parent / "config.yaml", RunConfig if card.parent.name in ARMS else PretrainConfig)
    assert variant_line(config) in card.read_text(encoding="utf-8")


def test_every_shipped_checkpoint_has_a_card() -> None:
    assert {path.parent for path in WEIGHTS.glob("*/card.md")} == {path for path in WEIGHTS.iterdir() if path.is_dir()}


def test_the_examples_of_the_documentation_run_but_those_that_need_a_model_of_text_and_say_so(shipped: Live) -> None:
    missing = {"/v1/translate": "translate", "/v1/sentiment": "sentiment", "/v1/completions": "complete"}
    paths = shipped.app.openapi()["paths"]
    with shipped.client() as client:
        for method, path, body in documented(shipped):
            answer = client.request(method, path, json=body)
            if path in missing:
                assert missing[path] in problem(answer, "not-found")["detail"]
                assert "None comes with the package" in paths[path]["post"]["description"]
            else:
                assert answer.is_success, (method, path, body, answer.text)


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


@pytest.mark.slow
def test_the_first_start_exports_says_so_and_answers_as_pytorch_does(
    talkative_run: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As it comes, no setting says what runs a model: on a processor ONNX Runtime does."""
    monkeypatch.setenv("ARCHLAB_CACHE", str(tmp_path / "cache"))
    models = (f"scenes-vljepa={talkative_run('vljepa')}",)
    body = {"image": base64_of(picture()), "labels": ["a red circle", "two stars", "no"]}
    reasons, found = set(), []
    with serving(ready=False, models=models, index=str(tmp_path / "index")) as live, live.client() as client:
        while (ready := client.get("/readyz")).status_code != 200:
            assert not live.service.failure
            reasons.add(ready.json()["reason"])
            threading.Event().wait(0.05)
        (model,) = client.get("/v1/models").json()["data"]
        assert model["backend"] == "onnx"
        found.append(client.post("/v1/classify", json=body).json()["labels"])
    assert (
        "the models are being loaded: 0 of 1 are, now scenes-vljepa, which is exported to ONNX first, once: "
        "about a minute" in reasons
    )
    log = capsys.readouterr().out
    assert "is exported to ONNX first, once" in log
    assert "was exported in" in log
    for backend in ("auto", "torch"):  # the first of which reads the export now
        with serving(models=models, backend=backend) as live, live.client() as client:
            found.append(client.post("/v1/classify", json=body).json()["labels"])
    assert "is exported" not in capsys.readouterr().out
    for labels in found[1:]:
        assert [one["text"] for one in labels] == [one["text"] for one in found[0]]
        for one, other in zip(labels, found[0], strict=True):
            assert one["probability"] == pytest.approx(other["probability"], abs=1e-4)


def test_the_weights_that_come_with_the_package_are_small() -> None:
    assert sum(path.stat().st_size for path in Path(WEIGHTS).rglob("*") if path.is_file()) < 25e6
