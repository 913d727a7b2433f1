"""An exported run answers as the run in PyTorch, and an export that does not is never left behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from archlab.cli import main
from archlab.config import PredictorConfig, RunConfig
from archlab.errors import UserError
from archlab.evaluate.readout import EmbeddingReadout
from archlab.export import onnx as module
from archlab.export.manifest import Manifest, digest_of
from archlab.export.onnx import export_onnx
from archlab.export.opening import open_export
from archlab.export.parity import compare
from archlab.train.checkpoint import load_checkpoint, save_checkpoint
from archlab.train.setup import Setup
from archlab.vl.answering import Answerer
from archlab.vl.arms import build_arm

Folders = Callable[[str], Path]
# Exporting takes seconds a graph: the token arm's are left to the slow tests.
TOKEN = pytest.param("token", marks=pytest.mark.slow)
ARMS = pytest.mark.parametrize("arm", [TOKEN, "vljepa"])
QUERIES = ["what colour is it?", "", "is there a red ring above the small blue star?", "a", "b c d"]
CANDIDATES = ["red", "a very large green circle next to a ring", "no"]


@ARMS
def test_the_graphs_say_score_and_embed_what_pytorch_does(
    exported: Folders, talkative_run: Folders, tiny_setup: Setup, arm: str
) -> None:
    """On real images, in batches and lengths that the export has not seen."""
    graphs, run = open_export(exported(arm)), Answerer.open(talkative_run(arm))
    images = tiny_setup.dataset["test"].images[:5]
    ours, theirs = graphs.request(images, QUERIES), run.request(images, QUERIES)
    np.testing.assert_allclose(ours.features, theirs.features, atol=1e-4)
    assert graphs.readout.speak(ours) == run.readout.speak(theirs)
    assert len(set(run.readout.speak(theirs))) > 2
    for name, scores in run.readout.choose(theirs, CANDIDATES).items():
        np.testing.assert_allclose(graphs.readout.choose(ours, CANDIDATES)[name], scores, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(graphs.readout.image_vectors(ours), run.readout.image_vectors(theirs), atol=1e-4)
    np.testing.assert_allclose(graphs.readout.text_vectors(CANDIDATES), run.readout.text_vectors(CANDIDATES), atol=1e-4)
    assert graphs.scale == run.scale


@pytest.mark.slow
def test_many_candidates_are_scored_behind_one_prefix_as_in_pytorch(
    exported: Folders, talkative_run: Folders, tiny_setup: Setup
) -> None:
    """More than are packed into one call: the prefix is used again."""
    graphs, run = open_export(exported("token")), Answerer.open(talkative_run("token"))
    images, many = tiny_setup.dataset["test"].images[:2], [f"{'very ' * (i % 4)}red circle {i}" for i in range(60)]
    ours, theirs = (one.readout.choose(one.request(images, QUERIES[:2]), many)["sum"] for one in (graphs, run))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    assert len(np.unique(theirs.round(3))) > 100


@pytest.mark.slow
def test_a_prefix_in_the_graphs_serves_any_number_of_answers(exported: Folders, tiny_setup: Setup) -> None:
    graphs = open_export(exported("token"))
    request = graphs.request(tiny_setup.dataset["test"].images[:2], QUERIES[:2])
    arm: Any = graphs.readout.arm
    prefix = graphs.readout.read(request)  # type: ignore[union-attr]
    first, second = (
        torch.stack([step.token for step in arm.steps(prefix, 9, graphs.tokenizer.bos_id, graphs.tokenizer.eos_id)])
        for _ in range(2)
    )
    assert torch.equal(first, second)


@ARMS
def test_the_manifest_says_where_an_export_comes_from_and_how_far_it_is_from_pytorch(
    exported: Folders, talkative_run: Folders, arm: str
) -> None:
    folder, checkpoint = exported(arm), load_checkpoint(talkative_run(arm), RunConfig)
    manifest = Manifest.load(folder)
    assert (manifest.run, manifest.arm, manifest.run_digest) == (arm, arm, checkpoint.digest())
    assert manifest.encoder_digest == checkpoint.metrics["encoder_digest"]
    assert manifest.scale == (checkpoint.metrics["scale"] if arm == "vljepa" else None)
    assert manifest.files == {path.name: digest_of(path) for path in folder.iterdir() if path.name != "manifest.json"}
    assert {"features", "vectors of images", "vectors of texts", "logits", "decoded tokens"} <= manifest.parity.keys()
    assert manifest.parity["decoded tokens"] == 0
    assert 0 < manifest.parity["logits"] < 1e-3
    assert not manifest.served_as_int8  # nobody has measured it


@ARMS
@pytest.mark.parametrize("file", ["encoder", "continue"])
def test_a_graph_with_other_weights_fails_the_check(
    own_export: Folders, talkative_run: Folders, arm: str, file: str
) -> None:
    folder = own_export(arm)
    graph = onnx.load(folder / f"{file}.onnx")
    weight = max(graph.graph.initializer, key=lambda one: len(one.raw_data))
    values = onnx.numpy_helper.to_array(weight) * np.float32(1.01)
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(graph, folder / f"{file}.onnx")
    with pytest.raises(UserError, match=rf"{file}.onnx is missing or not the one exported"):
        open_export(folder)
    manifest = Manifest.load(folder)
    files = manifest.files | {f"{file}.onnx": digest_of(folder / f"{file}.onnx")}
    replace(manifest, files=files).save(folder)
    with pytest.raises(UserError, match=r"differs by .* from PyTorch, which is more than rounding"):
        compare(Answerer.open(talkative_run(arm)), open_export(folder))


def test_an_export_that_is_not_equal_is_not_left_behind(
    talkative_run: Folders, own_export: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = own_export("vljepa")
    before = {path.name: digest_of(path) for path in kept.iterdir()}

    def write(graphs: Any, folder: Path, *, int8: bool) -> None:  # graphs of another run
        for path in kept.glob("*.onnx"):
            (folder / path.name).write_bytes(path.read_bytes())

    louder = load_checkpoint(talkative_run("vljepa"), RunConfig)
    run = Answerer.open(talkative_run("vljepa"))
    arm: Any = run.readout.arm
    with torch.no_grad():
        arm.head.weight.mul_(torch.linspace(0.9, 1.1, len(arm.head.weight))[:, None])
    save_checkpoint(tmp_path / "other", arm, louder.config, louder.tokenizer, louder.metrics, "card")
    monkeypatch.setattr(module, "_write", write)
    for out in (tmp_path / "new", kept):
        with pytest.raises(UserError, match="differs by"):
            export_onnx(tmp_path / "other", out)
    assert not (tmp_path / "new").exists()
    assert {path.name: digest_of(path) for path in kept.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_what_killed_exporters_left_goes_with_the_next_export_and_what_others_write_stays(tmp_path: Path) -> None:
    """A process that was killed cleans up nothing: the cache would grow with every start that is cut off."""
    out = tmp_path / "a[b]"
    code = f"""
import os, pathlib, signal
from archlab.export.onnx import _partial
with _partial(pathlib.Path({str(out)!r})) as partial:
    (partial / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    with module._partial(out) as first, module._partial(out) as second:
        assert not left.exists()
        assert {first, second} == set(tmp_path.iterdir())
    assert list(tmp_path.iterdir()) == []


def test_int8_is_smaller_and_says_nearly_the_same(exported: Folders, talkative_run: Folders, tiny_setup: Setup) -> None:
    folder = exported("vljepa")
    graphs, run = open_export(folder, "int8"), Answerer.open(talkative_run("vljepa"))
    quantised = onnx.load(folder / "predict.int8.onnx").graph
    assert any(weight.data_type == onnx.TensorProto.INT8 for weight in quantised.initializer)
    images = tiny_setup.dataset["test"].images[:5]
    ours, theirs = (one.readout.image_vectors(one.request(images, QUERIES)) for one in (graphs, run))
    cosines = (ours * theirs).sum(1)
    assert (cosines > 0.98).all()
    assert (cosines < 1 - 1e-7).any()  # they are other numbers


def test_a_folder_that_is_no_export_is_never_replaced(talkative_run: Folders, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="exists and is no export"):
        export_onnx(talkative_run("token"), tmp_path)
    assert (tmp_path / "thesis.txt").exists()


def test_an_encoder_decoder_is_refused_with_the_remedy(
    tiny_setup: Setup, tiny_config: RunConfig, tmp_path: Path
) -> None:
    token = replace(tiny_config.token, architecture="encoder-decoder")
    config = replace(tiny_config, arm="token", token=token)
    arm = build_arm(config, tiny_setup.encoder.width, tiny_setup.tokenizer.vocab_size, 0)
    save_checkpoint(
        tmp_path / "run", arm, config, tiny_setup.tokenizer, {"encoder_digest": tiny_setup.encoder.digest}, ""
    )
    with pytest.raises(UserError, match="an encoder-decoder is not exported; serve this run with the backend torch"):
        export_onnx(tmp_path / "run", tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cross-attention", "none"])
def test_other_predictors_are_exported_too(
    tiny_setup: Setup, tiny_config: RunConfig, tmp_path: Path, kind: Any
) -> None:
    """One of them reads no query: the graph has no such input."""
    config = replace(
        tiny_config, arm="vljepa", vljepa=replace(tiny_config.vljepa, predictor=PredictorConfig(kind=kind))
    )
    arm = build_arm(config, tiny_setup.encoder.width, tiny_setup.tokenizer.vocab_size, 0)
    save_checkpoint(
        tmp_path / "run", arm, config, tiny_setup.tokenizer, {"encoder_digest": tiny_setup.encoder.digest}, ""
    )
    manifest = export_onnx(tmp_path / "run", tmp_path / "out")
    assert manifest.parity["vectors of images"] < 1e-4
    assert isinstance(open_export(tmp_path / "out").readout, EmbeddingReadout)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw | {"format": "archlab-onnx-0"}, "has the format 'archlab-onnx-0'"),
        (lambda raw: {key: value for key, value in raw.items() if key != "arm"}, "is damaged"),
        (lambda raw: raw | {"colour": "red"}, "is damaged"),
    ],
)
def test_a_manifest_that_is_not_understood_is_refused(
    own_export: Folders, change: Callable[[dict[str, Any]], dict[str, Any]], message: str
) -> None:
    folder = own_export("vljepa")
    raw = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(change(raw)))
    with pytest.raises(UserError, match=message):
        open_export(folder)


def test_a_folder_without_manifest_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"manifest.json is missing; make it with: archlab export RUN --to onnx"):
        open_export(tmp_path)


@pytest.mark.slow
def test_the_command_exports_measures_int8_and_prints_both(
    talkative_run: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = [str(talkative_run("vljepa")), "--to", "onnx", "--int8", "--evaluate", "--out", str(out)]
    assert main(["export", *arguments]) == 0
    shown = capsys.readouterr().out
    assert "largest difference from PyTorch" in shown
    assert "float32: 5 graphs" in shown
    assert "int8: 5 graphs" in shown
    accuracy = Manifest.load(out).accuracy
    assert accuracy is not None
    assert f"{accuracy.scores['vqa/accuracy'].int8:.4f}" in shown


def test_measuring_what_is_not_made_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["export", str(tmp_path), "--to", "onnx", "--evaluate"]) == 2
    assert "--evaluate: measures what int8 costs; add --int8" in capsys.readouterr().err
