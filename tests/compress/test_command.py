"""`archlab compress` from runs to table and figure; what is there is not made again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from archlab.cli import main
from archlab.compress import document
from archlab.compress.document import FIGURE, compression_markdown, load_compression
from archlab.compress.results import choose
from archlab.config import RunConfig
from archlab.errors import UserError
from archlab.export.manifest import Manifest
from archlab.export.onnx import export_onnx
from archlab.train.checkpoint import load_checkpoint

RECIPE = """
runtimes: {runtimes}
latency_batches: [1, 2]
latency_rounds: 3
bootstrap_samples: 100
variants:
{more}  narrow: {{method: structured, kept: 0.4, examples: 16}}
"""
ROUNDED = "  rounded: {method: bfloat16}\n"


@pytest.fixture(scope="session")
def compressed(
    talkative_run: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[str], Path]:
    """The arguments of a command that was run, in torch alone, and what it wrote."""
    folder = tmp_path_factory.mktemp("command")
    (folder / "mine.yaml").write_text(RECIPE.format(runtimes="[torch]", more=""))
    runs = [str(talkative_run(arm)) for arm in ("token", "vljepa")]
    arguments = ["compress", *runs, "--recipe", str(folder / "mine.yaml"), "--out", str(folder / "out")]
    assert main(arguments) == 0
    return arguments, folder / "out"


def test_every_variant_of_both_arms_is_measured(compressed: tuple[list[str], Path]) -> None:
    results = load_compression(compressed[1] / "results.json")
    assert [row["name"] for row in results["rows"]] == [
        f"{arm}/{variant}/torch" for arm in ("token", "vljepa") for variant in ("float32", "narrow")
    ]
    for row in results["rows"]:
        for split in ("validation", "test"):
            score = row["scores"][split]["vqa/accuracy"]
            assert score["low"] <= score["value"] <= score["high"]
        assert row["latency"].keys() == {"choose", "caption"}
        assert row["latency"]["choose"]["2"]["calls"] == 3
        assert row["footprint"]["peak_memory_mib"] > 0
        assert row["footprint"]["compressed_bytes"] > 0
    assert results["encoders"]["torch"]["1"]["p50_ms"] > 0
    assert {"git", "machine", "created", "command", "data", "encoder", "threads"} <= results.keys()


def test_the_run_itself_is_what_all_are_compared_to(compressed: tuple[list[str], Path]) -> None:
    for row in load_compression(compressed[1] / "results.json")["rows"]:
        change, ratio = row["change"]["test"]["vqa/accuracy"], row["latency"]["choose"]["1"]["times_torch"]
        if row["variant"] == "float32":
            assert change["difference"] == 0
            assert ratio["ratio"] == 1
        own, base = (
            json.loads((compressed[1] / "runs" / f"{row['arm']}-{name}" / "scores" / "torch-test.json").read_text())
            for name in (row["variant"], "float32")
        )
        own, base = own["values"]["vqa/accuracy"], base["values"]["vqa/accuracy"]
        assert change["difference"] == pytest.approx(sum(own) / len(own) - sum(base) / len(base))


def test_the_same_command_makes_nothing_again(compressed: tuple[list[str], Path]) -> None:
    arguments, out = compressed

    def made() -> dict[str, int]:
        kept = {out / "results.json", out / FIGURE}
        return {str(path): path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path not in kept}

    before = made()
    assert main(arguments) == 0
    assert made() == before


def test_table_and_figure_are_made_of_the_results(compressed: tuple[list[str], Path]) -> None:
    path = compressed[1] / "results.json"
    results = load_compression(path)
    text = compression_markdown(results, FIGURE)
    assert text.count("| narrow | torch |") == 2
    assert "structured pruning, 1 heads and 13 channels left in each block" in text
    assert results["parents"]["token"]["digest"][:12] in text
    assert f"{100 * results['rows'][0]['scores']['test']['vqa/accuracy']['value']:.1f} %" in text
    assert "not measured" in text  # ONNX, which was not asked for
    assert (compressed[1] / FIGURE).read_bytes().startswith(b"\x89PNG")
    page = path.parent.parent / "page.md"
    page.write_text("before\n<!-- compression:start -->\n<!-- compression:end -->\n")
    assert document.main([str(page), str(path), "--check"]) == 1
    assert document.main([str(page), str(path)]) == 0
    assert document.main([str(page), str(path), "--check"]) == 0
    assert text.replace(FIGURE, f"out/{FIGURE}") in page.read_text()


def test_the_committed_table_is_that_of_the_committed_results() -> None:
    folder = Path(__file__).resolve().parents[2] / "06-production"
    page, path = folder / "smaller-models.md", folder / "compression" / "results.json"
    if path.exists():
        assert document.write_compression_block(page, path, check=True)
    else:
        assert "\nNo results are committed yet.\n" in page.read_text(encoding="utf-8")


def row(name: str, lost: float, milliseconds: float, on_test: float = 0.0) -> dict[str, Any]:
    return {
        "name": name,
        "change": {
            "validation": {"vqa/accuracy": {"difference": -lost}},
            "test": {"vqa/accuracy": {"difference": -on_test}},
        },
        "latency": {"choose": {"8": {"p50_ms": 1.0}, "1": {"p50_ms": milliseconds}}},
    }


def test_what_is_chosen_is_the_fastest_that_keeps_validation_whatever_test_says() -> None:
    rows = [row("whole", 0, 9), row("kept", 0.005, 5, on_test=0.3), row("fast", 0.006, 1), row("better", -0.1, 6)]
    assert choose(rows) == "kept"
    assert choose([row("fast", 0.2, 1)]) is None


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["{token}", "{token}"], "is of the token arm as is another; give one run of each arm"),
        (["{nothing}"], "config.yaml is missing"),
        (["latency_rounds=3"], "needs at least one folder of a finished run"),
        (["{token}", "latency_rounds=0"], "latency_rounds=0: must be at least 1"),
        (["{token}", "--out", "{there}"], "exists and holds no run"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    words: list[str],
    expected: str,
    talkative_run: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    known = {"token": talkative_run("token"), "nothing": tmp_path / "nothing", "there": tmp_path / "there"}
    capsys.readouterr()  # of training the run, where this test was the first to ask for it
    assert main(["compress", *(word.format(**known) for word in words)]) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert said.count("\n") == 1


def test_a_run_on_other_data_than_there_are_now_is_refused(
    talkative_run: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(talkative_run("token"), tmp_path / "run")
    metrics = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps(metrics | {"data_digest": {"train": "other"}}))
    assert main(["compress", str(run), "--out", str(tmp_path / "out")]) == 2
    assert "was trained on other data than data.source='scenes' gives now" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_results_of_something_else_are_refused(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(UserError, match="are not those of archlab compress"):
        load_compression(tmp_path / "results.json")
    with pytest.raises(UserError, match="make them with: archlab compress"):
        load_compression(tmp_path / "none.json")


@pytest.mark.slow
def test_variants_are_measured_in_every_runtime_and_served_from_their_exports(
    talkative_run: Callable[[str], Path], tmp_path: Path
) -> None:
    from archlab.serve.opening import open_engine

    (tmp_path / "mine.yaml").write_text(RECIPE.format(runtimes="[torch, onnx, onnx-int8]", more=ROUNDED))
    out, run = tmp_path / "out", str(talkative_run("token"))
    assert main(["compress", run, "--recipe", str(tmp_path / "mine.yaml"), "--out", str(out)]) == 0
    results = load_compression(out / "results.json")
    assert [row["name"] for row in results["rows"]] == [
        *(f"token/float32/{runtime}" for runtime in ("torch", "onnx", "onnx-int8")),
        "token/rounded/torch",
        *(f"token/narrow/{runtime}" for runtime in ("torch", "onnx", "onnx-int8")),
    ]
    size = {row["name"]: row["footprint"] for row in results["rows"]}
    assert size["token/float32/onnx-int8"]["encoder_bytes"] < size["token/float32/onnx"]["encoder_bytes"]
    assert all(row["latency"]["choose"]["1"]["times_onnx"]["ratio"] > 0 for row in results["rows"])
    assert "not measured" not in compression_markdown(results, FIGURE)
    folder = out / "runs" / "token-narrow"
    manifest = Manifest.load(folder / "onnx")
    assert manifest.run_digest == load_checkpoint(folder, RunConfig).digest()
    assert manifest.accuracy is not None
    questions = {row["name"]: row["scores"]["validation"]["vqa/accuracy"]["value"] for row in results["rows"]}
    assert manifest.accuracy.scores["vqa/accuracy"].int8 == pytest.approx(questions["token/narrow/onnx-int8"])
    engine = open_engine(folder)
    assert engine.about.backend == "onnx"
    assert "**Variant:** structured pruning" in engine.about.card


@pytest.mark.slow
def test_a_run_in_bfloat16_is_exported_in_float32(runs: Path, tmp_path: Path) -> None:
    """The export compares itself with the rounded weights, computed with in float32."""
    differences = export_onnx(runs / "vljepa-rounded", tmp_path / "onnx").parity
    assert max(differences.values()) < 1e-3
