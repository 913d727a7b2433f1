"""The main job, from the command line to the report, on a world small enough for a test."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from safetensors.torch import load_file
from tests.sharing import made_once

SMALL = [
    "seeds=[0,1]",
    "learning_rates=[1e-3,3e-3]",
    "sweep_steps=2",
    "trained_blind=true",
    "supervised=true",
    "test_items=60",
    "pmi_gallery=12",
    "bootstrap_samples=100",
    "latency_batches=[1,2]",
    "latency_requests=2",
    "machine_price_per_hour=3.6",
    "run.data.scenes={train_images: 60, validation_images: 60, test_images: 60, questions_per_image: 8,"
    " paraphrases: 2}",
    "run.tokenizer.vocab_size=300",
    "run.trunk={width: 16, depth: 1, heads: 2, feed_forward: 32}",
    "run.vljepa={embedding: 16, target: {width: 16, depth: 1, heads: 2, feed_forward: 32},"
    " decoder: {width: 16, depth: 1, heads: 2, feed_forward: 32}}",
    "run.tokenizer.max_target=12",
    "run.optimizer={steps: 4, batch_size: 16}",
    "run.evaluation={checkpoints: 2, first_checkpoint: 2, items: 20}",
]
# One seed, no sweep, nothing that is trained beside; all test items.
_SCENES_ALONE = ("run.data", "seeds", "learning_rates", "trained", "test_items", "latency_batches")
OF_A_FOLDER = [*(one for one in SMALL if not one.startswith(_SCENES_ALONE)), "latency_batches=[1]"]
METRICS = {
    "vqa/accuracy",
    "classification/accuracy",
    "caption/cider_d",
    "caption/slots",
    "retrieval/image_to_text_r1",
    "retrieval/text_to_image_r10",
}


def archlab(*arguments: str, cache: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "archlab", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"ARCHLAB_CACHE": str(cache), "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def cache(shared_folder: Path) -> Path:
    return shared_folder / "features"


@pytest.fixture(scope="module")
def out(shared_folder: Path, cache: Path) -> Path:
    """The folder of one comparison of two seeds, finished; all workers share it: copy it to change it."""

    def compare(_: str, folder: Path) -> None:
        done = archlab("compare", "--out", str(folder), *SMALL, cache=cache)
        assert done.returncode == 0, done.stderr
        assert str(folder / "report.html") in done.stdout

    return made_once(shared_folder / "compare", compare)("out")


@pytest.fixture
def own(out: Path, tmp_path: Path) -> Path:
    """A copy of `out`."""
    return shutil.copytree(out, tmp_path / "own")


@pytest.fixture(scope="module")
def results(out: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((out / "results.json").read_text(encoding="utf-8"))
    return loaded


def test_every_task_is_measured_on_both_arms_with_intervals(results: dict[str, Any]) -> None:
    for arm in ("token", "vljepa"):
        scores = results["arms"][arm]["test"]["test"]
        assert scores.keys() >= METRICS
        for score in scores.values():
            assert score["low"] <= score["value"] <= score["high"]
            assert score["seeds"] == 2
    assert {"test", "test_combinations", "test_backgrounds", "test_forms"} <= results["arms"]["token"]["test"].keys()
    token, vljepa = (results["arms"][arm]["test"]["test"] for arm in ("token", "vljepa"))
    assert {"vqa_normalised/accuracy", "retrieval_pmi/image_to_text_r1"} <= token.keys()
    assert "retrieval_pmi/image_to_text_r1" in vljepa
    assert "retrieval_pmi/image_to_text_r1" in results["paired"]["test"]


def test_controls_stand_beside_every_claim(results: dict[str, Any]) -> None:
    controls = results["controls"]
    for name in ("shuffled_image", "no_query", "trained_blind"):
        assert controls[name].keys() == {"token", "vljepa"}
    assert controls["decoder_ceiling"].keys() == controls["nearest_caption"].keys() == {"vljepa"}
    assert controls["majority"]["both"]["vqa/accuracy"]["n"] == controls["supervised_head"]["both"]["vqa/accuracy"]["n"]


def test_costs_are_counted_with_target_encoder_and_decoder(results: dict[str, Any]) -> None:
    token, vljepa = (results["arms"][arm] for arm in ("token", "vljepa"))
    assert token["parameters"]["parts"]["target_encoder"] == 0 < vljepa["parameters"]["parts"]["target_encoder"]
    assert token["parameters"]["parts"]["backbone"] == vljepa["parameters"]["parts"]["backbone"]
    assert vljepa["training"]["flops_parts"].keys() == {"backbone", "head", "target_encoder", "decoder", "loss"}
    for arm in (token, vljepa):
        assert arm["training"]["peak_memory_mib"] > 0
        assert arm["inference"].keys() == {"choose", "caption", "embed"}
        row = arm["inference"]["choose"]["2"]
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert row["memory_mib"] > 0
        # 3.6 an hour is a thousandth a second.
        cost = arm["cost"]["choose"]
        assert cost["cost_per_1000"] == pytest.approx(cost["seconds_per_1000"] / 1000)
    assert results["paired"]["inference"]["choose/2"]["ratio"] > 0


def test_curves_end_at_the_last_step_and_count_operations(results: dict[str, Any]) -> None:
    for arm in results["arms"].values():
        curve = arm["curves"]["vqa/accuracy"]
        assert [point["step"] for point in curve] == [2, 4]
        assert [point["samples"] for point in curve] == [32, 64]
        assert curve[-1]["flops"] == arm["training"]["flops"] > curve[0]["flops"] > 0
        assert all(len(point["per_seed"]) == 2 for point in curve)


def test_scores_to_be_reached_are_above_chance(results: dict[str, Any]) -> None:
    for row in results["efficiency"]:
        assert row["threshold"] > results["arms"]["token"]["curves"][row["metric"]][-1]["chance"]
    assert results["arms"]["token"]["curves"]["vqa/accuracy"][-1]["chance"] > 0


def test_the_sweep_gives_both_arms_equal_trials_and_takes_the_best(results: dict[str, Any]) -> None:
    for arm in results["arms"].values():
        trials = arm["sweep"]
        assert [trial["learning_rate"] for trial in trials] == [1e-3, 3e-3]
        best = max(trials, key=lambda trial: (trial["score"], -trial["learning_rate"]))
        assert arm["training"]["learning_rate"] == best["learning_rate"]


def test_provenance_names_everything_that_the_numbers_depend_on(results: dict[str, Any], out: Path) -> None:
    provenance = results["provenance"]
    assert provenance["order_digest"].keys() == {"0", "1"}
    assert len(set(provenance["order_digest"].values())) == 2
    for run in ("token-0", "vljepa-0"):
        metrics = json.loads((out / "runs" / run / "metrics.json").read_text(encoding="utf-8"))
        assert metrics["order_digest"] == provenance["order_digest"]["0"]
        assert metrics["data_digest"] == provenance["data_digest"]
    assert results["config"]["run"]["optimizer"]["steps"] == 4
    assert results["seeds"] == [0, 1]


def test_the_same_command_again_trains_nothing_and_keeps_every_number(own: Path, cache: Path, results: Any) -> None:
    before = {path: path.stat().st_mtime_ns for path in own.rglob("*.safetensors")}
    (own / "results.json").unlink()
    assert archlab("compare", "--out", str(own), *SMALL, cache=cache).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in own.rglob("*.safetensors")} == before
    again = json.loads((own / "results.json").read_text(encoding="utf-8"))
    assert again["arms"] == results["arms"]
    assert again["paired"] == results["paired"]


def test_interrupted_and_continued_equals_uninterrupted(out: Path, cache: Path, tmp_path: Path) -> None:
    """Killed in the middle by Ctrl-C, the same command ends in the same scores, bit for bit."""
    command = [sys.executable, "-m", "archlab", "compare", "--out", str(tmp_path / "out"), *SMALL]
    environment = os.environ | {"ARCHLAB_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    first = tmp_path / "out" / "runs" / "token-0" / "config.yaml"
    while not first.exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130, said
    assert said.strip().splitlines()[-1] == "archlab: interrupted; the same command resumes the run"
    assert not (tmp_path / "out" / "results.json").exists()
    assert archlab(*command[3:], cache=cache).returncode == 0
    for arm in ("token-0", "vljepa-1"):
        ours, theirs = (folder / "runs" / arm for folder in (tmp_path / "out", out))
        weights, wanted = (load_file(folder / "model.safetensors") for folder in (ours, theirs))
        assert weights.keys() == wanted.keys()
        assert all(torch.equal(weights[name], wanted[name]) for name in wanted)
        assert (ours / "test" / "test.json").read_bytes() == (theirs / "test" / "test.json").read_bytes()


def test_evaluate_repeats_the_scores_of_a_run(out: Path, cache: Path, tmp_path: Path) -> None:
    run, scores = out / "runs" / "vljepa-0", tmp_path / "scores.json"
    done = archlab("evaluate", str(run), "--split", "test", "--out", str(scores), cache=cache)
    assert done.returncode == 0, done.stderr
    written = json.loads(scores.read_text(encoding="utf-8"))["scores"]
    assert "vqa/accuracy" in done.stdout
    assert written["caption/cider_d"]["n"] == 60


@pytest.mark.parametrize("arm", ["token", "vljepa"])
def test_generate_says_something_about_a_picture(out: Path, cache: Path, tmp_path: Path, arm: str) -> None:
    Image.new("RGB", (90, 60), "red").save(tmp_path / "red.png")
    done = archlab("generate", str(out / "runs" / f"{arm}-0"), "--image", str(tmp_path / "red.png"), cache=cache)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1


def folder_of_pairs(folder: Path, count: int) -> Path:
    """Pictures of one colour, each with a caption that names it."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    lines = []
    for number in range(count):
        colour = tuple(int(value) for value in generator.integers(0, 256, 3))
        Image.new("RGB", (40, 30), colour).save(folder / f"{number}.png")
        lines.append(json.dumps({"file_name": f"{number}.png", "text": f"a picture of colour {colour}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_a_folder_of_captions_runs_end_to_end(cache: Path, tmp_path: Path) -> None:
    data = folder_of_pairs(tmp_path / "pairs", 80)
    done = archlab("compare", "--data", str(data), "--out", str(tmp_path / "out"), *OF_A_FOLDER, cache=cache)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    scores = results["arms"]["vljepa"]["test"]["test"]
    assert {"caption/cider_d", "retrieval/image_to_text_r10"} <= scores.keys()
    assert "vqa/accuracy" not in scores
    assert "question" in results["untested"]["questions"]
    floor = results["controls"]["retrieval_floor"]["both"]["retrieval/image_to_text_r10"]
    assert floor["n"] == scores["retrieval/image_to_text_r10"]["n"]
    assert floor["chance"] == scores["retrieval/image_to_text_r10"]["chance"]
    assert "one seed: no winner" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_folder_of_real_photos_is_reported_beside_the_floor_of_the_set(
    real_data: Path, cache: Path, tmp_path: Path
) -> None:
    """A folder as a user would make it of the OpenStax photos; `data/README.md` names the floor of their test split."""
    data = tmp_path / "photos"
    data.mkdir()
    columns = ["id", "image", "short", "split", "photo"]
    table = parquet.read_table(real_data / "openstax_alt_128.parquet", columns=columns).to_pylist()
    lines = []
    for number, row in enumerate(row for row in table if row["photo"]):
        (data / f"{number}.png").write_bytes(row["image"])
        lines.append(json.dumps({"file_name": f"{number}.png", "text": row["short"], "split": row["split"]}))
    (data / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    done = archlab("compare", "--data", str(data), "--out", str(tmp_path / "out"), *OF_A_FOLDER, cache=cache)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    floor = results["controls"]["retrieval_floor"]["both"]["retrieval/image_to_text_r10"]
    assert floor["n"] == 249
    assert floor["low"] < 0.285 < floor["high"]
    for arm in ("token", "vljepa"):
        score = results["arms"][arm]["test"]["test"]["retrieval/image_to_text_r10"]
        assert (score["n"], score["chance"]) == (249, floor["chance"])
    report = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Not above a regression from gradients and colours to words" in report  # after four steps


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["compare", "--data", "no/such folder"], "no/such folder"),
        (["compare", "run.optimizer.stps=3"], "run.optimizer.steps"),
        (["compare", "run.encoder.weights=nothing"], "nothing"),
        (["compare", "run.data.scenes.train_images=2", "run.data.scenes.kinds=[colour]"], "batch_size"),
        (["evaluate", "no-such-run"], "no-such-run"),
        (["generate", "no-such-run", "--image", "x.png"], "no-such-run"),
        (["train", "no-such.yaml"], "no-such.yaml"),
        (["compre"], "compare"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments: list[str], named: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = archlab(*arguments, cache=cache)
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("archlab: error: ")
    assert named in lines[0]
    assert not list(tmp_path.iterdir())


def test_a_folder_of_another_comparison_is_never_overwritten(own: Path, cache: Path) -> None:
    before = (own / "report.html").read_bytes()
    done = archlab("compare", "--out", str(own), *SMALL, "run.optimizer.steps=5", cache=cache)
    assert done.returncode == 2
    assert "run.optimizer.steps" in done.stderr
    assert (own / "report.html").read_bytes() == before
    assert (own / "runs" / "token-0" / "model.safetensors").exists()
