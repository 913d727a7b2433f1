"""Which engine a folder is opened as."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from archlab.children import Children
from archlab.config import RunConfig
from archlab.errors import UserError
from archlab.export.accuracy import record
from archlab.export.manifest import Accuracy, Manifest, Score
from archlab.serve import opening
from archlab.serve.opening import Choice, open_engine
from archlab.serve.vision_engine import VisionEngine
from archlab.train.checkpoint import save_checkpoint
from archlab.train.setup import Setup
from archlab.vl.answering import Answerer
from archlab.vl.arms import build_arm

BACKENDS: tuple[Choice, ...] = ("torch", "onnx", "onnx-int8")
QUERIES = ["what colour is it?", "is there a red ring above the star?"]


@pytest.fixture(scope="session")
def exported_run(
    talkative_run: Callable[[str], Path], exported: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run of VL-JEPA with its export beside it, int8 included."""
    run = shutil.copytree(talkative_run("vljepa"), tmp_path_factory.mktemp("exported") / "run")
    shutil.copytree(exported("vljepa"), run / "onnx")
    return run


def test_a_run_is_served_by_onnx_runtime_on_a_cpu_and_answers_as_in_torch(
    exported_run: Path, pictures: list[np.ndarray]
) -> None:
    ours, theirs = open_engine(exported_run), open_engine(exported_run, "torch")
    assert isinstance(ours, VisionEngine)
    assert isinstance(theirs, VisionEngine)
    assert (ours.about.backend, theirs.about.backend) == ("onnx", "torch")
    assert replace(ours.about, backend="torch") == theirs.about
    assert ours.operations.keys() == theirs.operations.keys()
    pair = pictures[:2], QUERIES
    answers_alike(ours, theirs, pair)
    np.testing.assert_allclose(ours.attention(*pair)[1].maps, theirs.attention(*pair)[1].maps)
    ours.probe()


def answers_alike(ours: VisionEngine, theirs: VisionEngine, pair: tuple[list[np.ndarray], list[str]]) -> None:
    np.testing.assert_allclose(ours.embed_texts(pair[1]), theirs.embed_texts(pair[1]), atol=1e-5)
    np.testing.assert_allclose(ours.embed_images(*pair), theirs.embed_images(*pair), atol=1e-5)
    chosen = [engine.choose(*pair, [["a", "b c"], ["red"]]) for engine in (ours, theirs)]
    for one, other in zip(*chosen, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    for spoken, expected in zip(ours.speak(*pair), theirs.speak(*pair), strict=True):
        assert (spoken.text, spoken.steps) == (expected.text, expected.steps)
        assert spoken.confidence == pytest.approx(expected.confidence, rel=1e-3)
    assert ["".join(stream) for stream in ours.begin(*pair)] == ["".join(stream) for stream in theirs.begin(*pair)]


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_where_there_is_a_gpu_a_run_is_computed_there_in_torch_though_it_was_exported(
    exported_run: Path, monkeypatch: pytest.MonkeyPatch, backend: Any
) -> None:
    asked: list[tuple[Path, str]] = []

    def opened(run: Path, device: str = "cpu") -> Answerer:
        asked.append((run, device))
        return plain(run)

    plain = Answerer.open
    monkeypatch.setattr(Answerer, "open", opened)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert open_engine(exported_run, backend).about.backend == "torch"
    assert asked == [(exported_run, "cuda")]
    assert open_engine(exported_run, "onnx").about.backend == "onnx"  # which is asked for by name
    assert open_engine(exported_run / "onnx").about.backend == "onnx"  # where there is nothing else
    assert len(asked) == 1


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("arm", ["token", "vljepa"])
def test_on_a_gpu_an_arm_answers_as_on_a_processor(
    arm: str,
    device: str,
    talkative_run: Callable[[str], Path],
    pictures: list[np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a GPU, what it says is tried at least of the processor; there, PyTorch must be asked for."""
    ours: Any = open_engine(talkative_run(arm), "auto" if device == "cuda" else "torch")
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        theirs: Any = open_engine(talkative_run(arm), "torch")
    devices = [next(one._answerer.readout.arm.parameters()).device.type for one in (ours, theirs)]
    assert (ours.about.backend, devices) == ("torch", [device, "cpu"])
    pair = pictures[:2], QUERIES
    answers_alike(ours, theirs, pair)
    if arm == "vljepa":
        vectors = list(theirs.embed_images(*pair))
        assert [one.text for one in ours.speak_vectors(vectors)] == [one.text for one in theirs.speak_vectors(vectors)]
    for one, other in zip(ours.attention(*pair), theirs.attention(*pair), strict=True):
        assert one.tokens == other.tokens
        np.testing.assert_allclose(one.maps, other.maps, atol=1e-4)
    assert all(ours.flops(*pair, [None, ["red", "blue"]]))
    ours.probe()


def test_an_export_alone_is_served_without_the_run_and_has_no_attention_maps(
    exported_run: Path, pictures: list[np.ndarray]
) -> None:
    engine = open_engine(exported_run / "onnx")
    assert isinstance(engine, VisionEngine)
    assert engine.about.backend == "onnx"
    assert "attention" not in engine.operations
    assert engine.speak(pictures[:1], QUERIES[:1])[0].steps
    with pytest.raises(UserError, match="holds no PyTorch weights"):
        open_engine(exported_run / "onnx", "torch")


@pytest.mark.parametrize(("lost", "backend"), [(0.0, "onnx-int8"), (0.02, "onnx")])
def test_int8_is_chosen_where_it_costs_nothing_and_served_where_it_is_asked_for(
    exported_run: Path, tmp_path: Path, pictures: list[np.ndarray], lost: float, backend: str
) -> None:
    run = shutil.copytree(exported_run, tmp_path / "run")
    score = Score(items=1000, fp32=0.9, int8=0.9 - lost)
    record(run / "onnx", run, Accuracy(split="validation", scores={"vqa/accuracy": score}))
    assert open_engine(run).about.backend == backend
    assert open_engine(run, "onnx").about.backend == "onnx"
    int8: Any = open_engine(run, "onnx-int8")
    assert int8.about.backend == "onnx-int8"
    plain: Any = open_engine(run, "onnx")
    vectors = [engine.embed_images(pictures[:2], QUERIES) for engine in (int8, plain)]
    assert not np.allclose(*vectors, atol=1e-6)


@pytest.mark.parametrize(
    ("lost", "said"), [(0.004, "the service prefers it"), (0.02, "the service takes it only when asked to")]
)
def test_the_card_says_what_int8_costs_and_whether_it_is_served(
    exported_run: Path, tmp_path: Path, lost: float, said: str
) -> None:
    run = shutil.copytree(exported_run, tmp_path / "run")
    assert "costs was not measured" in open_engine(run, "onnx-int8").about.card
    for fp32 in (0.8, 0.9):  # the second takes the place of the first
        score = Score(items=1000, fp32=fp32, int8=fp32 - lost)
        record(run / "onnx", run, Accuracy(split="validation", scores={"vqa/accuracy": score}))
    cards = {backend: open_engine(run, backend).about.card for backend in BACKENDS}
    own = (run / "card.md").read_text()
    assert cards["torch"] == own
    assert cards["onnx"] == (run / "onnx" / "card.md").read_text()
    assert cards["onnx"].startswith(own.rstrip())
    assert "**Served as:**" not in cards["onnx"]
    title, served, rest = cards["onnx-int8"].split("\n\n", 2)
    assert served == "**Served as:** dynamic int8 of the weights described here; what that costs stands at the end."
    assert f"{title}\n\n{rest}" == cards["onnx"]
    for card in (cards["onnx"], cards["onnx-int8"]):
        assert f"on the validation split: {said}." in card
        assert card.count("| vqa/accuracy |") == own.count("| vqa/accuracy |") + 1
        assert f"| vqa/accuracy | 1000 | 0.9000 | {0.9 - lost:.4f} | +{100 * lost:.2f} |" in card
    manifest = run / "onnx" / "manifest.json"
    Manifest.load(run / "onnx").check(run / "onnx", {"card.md": None})
    before = manifest.stat().st_mtime_ns
    record(run / "onnx", run, Accuracy(split="validation", scores={"vqa/accuracy": score}))
    assert manifest.stat().st_mtime_ns == before  # it was recorded already


def test_int8_that_was_not_exported_is_refused(exported_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(exported_run, tmp_path / "run")
    for path in (run / "onnx").glob("*.int8.onnx"):
        path.unlink()
    with pytest.raises(UserError, match=r"int8\.onnx is missing"):
        open_engine(run, "onnx-int8")


def test_an_export_of_other_weights_beside_a_run_is_not_taken_for_its_own(exported_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(exported_run, tmp_path / "run")
    manifest = Manifest.load(run / "onnx")
    replace(manifest, run_digest="0" * 64).save(run / "onnx")
    asked: list[list[str]] = []

    class Failing(Children):
        def run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
            asked.append(list(command))
            return subprocess.CompletedProcess(command, 2, stderr="archlab: error: export: no\n")

    with pytest.raises(UserError, match=r"cannot be exported \(export: no\)"):
        open_engine(run, "onnx", Failing())
    assert len(asked) == 1


def test_what_cannot_be_exported_is_served_in_torch(
    tiny_setup: Setup, tiny_config: RunConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(tiny_config, arm="token", token=replace(tiny_config.token, architecture="encoder-decoder"))
    arm = build_arm(config, tiny_setup.encoder.width, tiny_setup.tokenizer.vocab_size, 0)
    save_checkpoint(tmp_path, arm, config, tiny_setup.tokenizer, {"encoder_digest": tiny_setup.encoder.digest}, "")
    engine = open_engine(tmp_path)
    assert engine.about.backend == "torch"
    assert "an encoder-decoder is not exported" in caplog.text
    assert "it is served in torch" in caplog.text


def test_without_onnx_runtime_a_run_is_served_in_torch(
    talkative_run: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "find_spec", lambda name: None)
    assert open_engine(talkative_run("vljepa")).about.backend == "torch"


@pytest.mark.slow
def test_a_run_is_exported_into_the_cache_when_it_is_first_served(talkative_run: Callable[[str], Path]) -> None:
    engine = open_engine(talkative_run("token"))
    assert engine.about.backend == "onnx"
    cached = opening.cache_folder() / f"onnx-{engine.about.digest[:32]}"
    assert Manifest.load(cached).run_digest == engine.about.digest
    before = (cached / "manifest.json").stat().st_mtime_ns
    assert open_engine(talkative_run("token"), "onnx").about.backend == "onnx"
    assert (cached / "manifest.json").stat().st_mtime_ns == before
