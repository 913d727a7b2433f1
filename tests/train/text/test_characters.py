from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from archlab.cli import main
from archlab.config import build
from archlab.data.text.sets import cut_end
from archlab.errors import UserError
from archlab.generate.compiled import has_compiler
from archlab.train.text import characters as module
from archlab.train.text.characters import Text, train_characters
from archlab.train.text.config import CharactersConfig

CONFIGS = Path(__file__).resolve().parents[3] / "02-transformer-impl" / "configs"
SENTENCE = "the cat sat on the mat and the dog sat on the log. "
TINY = {
    "model": {"context": 16, "width": 16, "depth": 1, "heads": 2, "feed_forward": 32},
    "batch_size": 4,
    "ngram": 3,
    "training": {"steps": 8, "warmup": 2, "evaluate_every": 4, "resume_every": 3, "learning_rate": 3e-3},
}


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(SENTENCE * 40, encoding="utf-8")
    return path


def config(text_file: Path, *overrides: str) -> CharactersConfig:
    return build(CharactersConfig, TINY | {"source": str(text_file)}, overrides)


def comparable(metrics: dict[str, Any]) -> dict[str, Any]:
    """Metrics without what the clock and the machine say."""
    curve = [{key: value for key, value in point.items() if key != "seconds"} for point in metrics["curve"]]
    left_out = ("seconds", "machine", "commit")
    return {key: value for key, value in metrics.items() if key not in left_out} | {"curve": curve}


def test_every_character_of_validation_is_predicted_once_and_none_of_it_is_trained_on(text_file: Path) -> None:
    text = Text(cut_end(text_file.read_text(), 0.1), 16)
    windows = text.windows().numpy()
    predicted = windows[:, 1:].ravel()
    assert np.array_equal(predicted, text.validation[1 : len(predicted) + 1])
    assert len(text.validation) - 1 - len(predicted) < 16
    assert len(text.train) + len(text.validation) == len(SENTENCE * 40)
    text.train[:] = 7
    assert all((text.batch(0, number, 8).tokens == 7).all() for number in range(20))


def test_a_batch_is_a_function_of_seed_and_number(text_file: Path) -> None:
    text = Text(cut_end(text_file.read_text(), 0.1), 16)
    first = text.batch(0, 5, 8).tokens
    assert torch.equal(first, text.batch(0, 5, 8).tokens)
    assert not torch.equal(first, text.batch(0, 6, 8).tokens)
    assert not torch.equal(first, text.batch(1, 5, 8).tokens)


def test_a_run_leaves_metrics_a_plot_and_a_table_with_the_floors(text_file: Path, tmp_path: Path) -> None:
    metrics = train_characters(config(text_file), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == metrics
    assert (metrics["task"], metrics["seed"], metrics["steps"]) == ("characters", 0, 8)
    assert metrics["data_digests"].keys() == {"text"}
    assert [point["step"] for point in metrics["curve"]] == [0, 4, 8]
    assert metrics["floors"].keys() == {"1-gram", "2-gram", "3-gram"}
    assert (
        metrics["validation_loss"] == metrics["curve"][-1]["scores"]["loss"] == metrics["table"][-1]["validation loss"]
    )
    assert metrics["curve"][0]["scores"]["loss"] == pytest.approx(np.log(len(metrics["symbols"])), abs=0.2)
    assert metrics["validation_loss"] < metrics["curve"][0]["scores"]["loss"]
    assert (tmp_path / "run" / "curve.png").read_bytes().startswith(b"\x89PNG")
    card = (tmp_path / "run" / "card.md").read_text()
    assert f"| GPT-2 | {metrics['parameters']:,} | {metrics['validation_loss']:.4g} |" in card
    assert metrics["table"][-1]["lowest of the curve"] == min(point["scores"]["loss"] for point in metrics["curve"])
    assert "| 3-gram, Kneser-Ney |" in card
    assert not (tmp_path / "run" / "state.pt").exists()


def test_the_step_at_which_a_floor_is_passed_is_the_first_scored_one_below_it(text_file: Path, tmp_path: Path) -> None:
    metrics = train_characters(config(text_file, "training.steps=60", "training.evaluate_every=10"), tmp_path / "run")
    for name, floor in metrics["floors"].items():
        below = [point["step"] for point in metrics["curve"] if point["scores"]["loss"] < floor]
        assert metrics["passed_at_step"][name] == (below[0] if below else None)
    assert metrics["passed_at_step"]["1-gram"] is not None
    assert metrics["table"][-1]["passes the 3-gram at step"] == metrics["passed_at_step"]["3-gram"]


OPTIONS = {
    "plain": [],
    "all at once": [
        "training.optimizer=muon",
        "training.accumulate=2",
        "training.average.kind=ema",
        "training.schedule=wsd",
        "training.dropout=0.1",
        "training.attention_dropout=0.1",
        "training.recompute=true",
        "training.precision=bfloat16",
    ],
    "float16": ["training.precision=float16", "training.average={kind: checkpoints, every: 2, last: 2}"],
}
COMPILED = pytest.param(
    ["training.compile=true", "training.dropout=0.1"],
    id="compiled",
    marks=[pytest.mark.slow, pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")],
)


@pytest.mark.parametrize("options", [*(pytest.param(one, id=name) for name, one in OPTIONS.items()), COMPILED])
def test_an_interrupted_and_resumed_run_equals_an_uninterrupted_one(
    options: list[str], text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = config(text_file, *options)
    whole = train_characters(chosen, tmp_path / "whole")
    plain = Text.batch

    def interrupting(self: Text, seed: int, number: int, size: int) -> Any:
        if number == 5:
            signal.raise_signal(signal.SIGINT)
        return plain(self, seed, number, size)

    with monkeypatch.context() as patch:
        patch.setattr(module.Text, "batch", interrupting)
        with pytest.raises(KeyboardInterrupt):
            train_characters(chosen, tmp_path / "resumed")
    assert (tmp_path / "resumed" / "state.pt").exists()
    torch.manual_seed(99)
    resumed = train_characters(chosen, tmp_path / "resumed")
    assert comparable(resumed) == comparable(whole)
    tensors, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("resumed", "whole"))
    assert tensors.keys() == expected.keys()
    assert [name for name, tensor in expected.items() if not torch.equal(tensors[name], tensor)] == []


def test_another_text_does_not_resume(text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Text.batch

    def once(self: Text, seed: int, number: int, size: int) -> Any:
        signal.raise_signal(signal.SIGINT)
        return plain(self, seed, number, size)

    with monkeypatch.context() as patch:
        patch.setattr(module.Text, "batch", once)
        with pytest.raises(KeyboardInterrupt):
            train_characters(config(text_file), tmp_path / "run")
    text_file.write_text(SENTENCE * 41)
    with pytest.raises(UserError, match="other data"):
        train_characters(config(text_file), tmp_path / "run")


def test_a_finished_run_is_opened_and_another_configuration_refused(text_file: Path, tmp_path: Path) -> None:
    first = train_characters(config(text_file), tmp_path / "run")
    assert train_characters(config(text_file), tmp_path / "run") == first
    with pytest.raises(UserError, match="holds a run with batch_size=4, not 5"):
        train_characters(config(text_file, "batch_size=5"), tmp_path / "run")


def test_the_command_trains_it(text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(json.dumps({"recipe": "characters"} | TINY | {"source": str(text_file)}))  # JSON is YAML
    assert main(["train", str(recipe), "--out", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "metrics.json").exists()


def test_the_recipe_for_names_runs_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").mkdir()
    names = ["emma", "olivia", "ava", "mia", "emma"] + [f"{a}{b}" for a in "abcdefgh" for b in ("na", "la", "rio")]
    (tmp_path / "text" / "names.txt").write_text("\n".join(names))
    monkeypatch.setenv("ARCHLAB_DATA", str(tmp_path))
    tiny = ["model={context: 8, width: 16, depth: 1, heads: 2, feed_forward: 32}", "batch_size=4", "ngram=2"]
    tiny += ["validation_fraction=0.3", "training.steps=8", "training.warmup=2", "training.evaluate_every=4"]
    assert main(["train", str(CONFIGS / "characters-names.yaml"), *tiny, "--out", str(tmp_path / "run")]) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["characters"] == sum(len(name) + 1 for name in names)
    assert metrics["validation_loss"] < metrics["curve"][0]["scores"]["loss"]
    assert [row["model"] for row in metrics["table"]] == ["1-gram, Kneser-Ney", "2-gram, Kneser-Ney", "GPT-2"]
    assert "1 of 29 names repeat an earlier one" in (tmp_path / "run" / "card.md").read_text()


@pytest.mark.parametrize(
    ("content", "expected"), [(b"", "is empty"), (b"\xff\xfe\xff", "it is not UTF-8"), (b"short", "longer text")]
)
def test_a_text_that_cannot_be_learned_from_is_refused_in_one_line(
    content: bytes, expected: str, text_file: Path, tmp_path: Path
) -> None:
    text_file.write_bytes(content)
    with pytest.raises(UserError, match=expected) as caught:
        train_characters(config(text_file), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_gpu_that_is_not_there_is_named(text_file: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match=r"training\.device='cuda': PyTorch sees no GPU"):
        train_characters(config(text_file, "training.device=cuda"), tmp_path / "run")
