from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import archlab
from archlab.cli import main
from archlab.config import CompareConfig, load, to_yaml
from archlab.errors import UserError
from archlab.train.folder import claim


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The error message, which must be a single line."""
    error = capsys.readouterr().err
    assert error.startswith("archlab: ")
    assert error.count("\n") == 1
    assert error.endswith("\n")
    return error.strip()


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Calls that the command line made: the work itself is tested where it lives."""
    calls: list[tuple[Any, ...]] = []

    def stand_in(module: str, function: str) -> None:
        stand = ModuleType(module)
        setattr(stand, function, lambda *args, **options: calls.append((function, *args, *options.items())))
        monkeypatch.setitem(sys.modules, module, stand)

    stand_in("archlab.compare.experiment", "run_compare")
    stand_in("archlab.train.recipes", "train_recipe")
    stand_in("archlab.compare.grid.run", "run_grid")
    sys.modules["archlab.compare.grid.run"].Places = lambda *folders: folders  # type: ignore[attr-defined]
    stand_in("archlab.compare.selective.run", "run_selective")
    stand_in("archlab.compare.selective.watch", "watch")
    stand_in("archlab.evaluate.command", "evaluate_run")
    stand_in("archlab.vl.generate", "generate")
    stand_in("archlab.generate.command", "continue_text")
    stand_in("archlab.bench.train", "bench_train")
    stand_in("archlab.bench.generate", "bench_generate")
    stand_in("archlab.bench.attention", "bench_attention")
    stand_in("archlab.interop.parity.run", "run_parity")
    stand_in("archlab.bench.serve.command", "bench_serve")
    sys.modules["archlab.bench.serve.command"].Plan = lambda **numbers: numbers  # type: ignore[attr-defined]
    return calls


def raises(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let `archlab train` end with `error`."""

    def fail(*_: object) -> None:
        raise error

    stand = ModuleType("archlab.train.recipes")
    stand.train_recipe = fail  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "archlab.train.recipes", stand)


def test_importing_the_command_line_imports_nothing_heavy() -> None:
    heavy = ["torch", "numpy", "transformers", "tokenizers", "matplotlib", "datasets", "yaml", "dacite", "rich"]
    code = f"import sys, archlab.cli, archlab.models.registry; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("argv", [["--help"], []])
def test_help_lists_every_command(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    commands = "compare train evaluate generate bench parity grid selective index search plan export serve keys cost"
    assert all(command in shown for command in commands.split())


@pytest.mark.parametrize(
    "command",
    ["compare", "train", "evaluate", "generate", "bench", "grid", "selective", "index", "search", "plan", "cost"],
)
def test_help_of_a_command_says_what_it_is_for(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: archlab {command} ")
    purpose = shown.split("\n\n")[1]
    assert purpose[0].isupper()
    assert purpose.endswith(".")


def test_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"archlab {archlab.__version__}\n"


def test_python_m_archlab_is_the_same_command_with_the_same_exit_code() -> None:
    done = subprocess.run([sys.executable, "-m", "archlab", "compar"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "archlab: error: command 'compar' is unknown; did you mean 'compare'?\n"


def test_options_and_overrides_reach_the_comparison_in_any_order(
    called: list[tuple[Any, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["compare", "seeds=[4]", "--preset", "quick", "run.optimizer.steps=7", "--budget", "paper"]
    argv += ["--data", "2024: a #1", "--price-per-hour", "1.5", "--out", str(tmp_path / "out"), "test_items=9"]
    assert main(argv) == 0
    (name, config, out, preset) = called.pop()
    assert (name, out, preset) == ("run_compare", tmp_path / "out", "quick")
    assert (config.seeds, config.run.optimizer.steps, config.budget, config.test_items) == ([4], 7, "paper", 9)
    assert (config.run.data.source, config.machine_price_per_hour) == ("2024: a #1", 1.5)
    assert str(tmp_path / "out" / "report.html") in capsys.readouterr().out


@pytest.mark.parametrize("preset", ["quick", "standard"])
def test_every_preset_is_a_valid_configuration_with_its_own_output_folder(
    preset: str, called: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "--preset", preset]) == 0
    assert called[0][2:] == (Path("runs") / preset, preset)


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        (["--data", "my/photos of 2024/"], "quick-photos-of-2024"),
        (["--data", "hub:owner/name"], "quick-name"),
        (["--data", "scenes", "--budget", "equal-flops", "--preset", "standard"], "standard-scenes-equal-flops"),
    ],
)
def test_other_data_and_budgets_have_their_own_output_folder(
    arguments: list[str], folder: str, called: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *arguments]) == 0
    assert called[0][2] == Path("runs") / folder


def test_a_grid_shares_its_cells_with_the_protocols_beside_it(called: list[tuple[Any, ...]], tmp_path: Path) -> None:
    protocol = tmp_path / "protocols" / "dial.yaml"
    assert main(["grid", str(protocol), "--screen", "--workers", "3"]) == 0
    assert main(["grid", str(tmp_path / "own.yaml"), "--report", "--work", "w", "--out", "o", "--cells", "c"]) == 0
    options: list[Any] = [("workers", 3), ("screen", True), ("run", True)]
    places = (tmp_path / "cells", Path("runs/cells"))
    assert called[0] == ("run_grid", protocol, places, tmp_path / "results" / "dial", *options)
    options = [("workers", 2), ("screen", False), ("run", False)]
    assert called[1] == ("run_grid", tmp_path / "own.yaml", (Path("c"), Path("w")), Path("o"), *options)
    assert main(["grid", str(protocol), "--workers", "0"]) == 2


def test_an_own_configuration_replaces_the_preset(called: list[tuple[Any, ...]], tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("seeds: [7]\n")
    assert main(["compare", "--config", str(path), "--out", str(tmp_path / "out")]) == 0
    assert called == [("run_compare", load(path, CompareConfig), tmp_path / "out", "mine")]


def test_a_folder_with_another_comparison_is_refused_and_the_same_one_resumed(
    called: list[tuple[Any, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "--out", str(tmp_path)]) == 0
    claim(tmp_path, called[0][1])
    (tmp_path / "results.json").write_text("{}")
    assert main(["compare", "--out", str(tmp_path)]) == 0
    assert len(called) == 2
    assert main(["compare", "--out", str(tmp_path), "seeds=[5]"]) == 2
    assert len(called) == 2
    assert "seeds=[0], not [5]" in one_line(capsys)


def test_each_command_passes_its_arguments_on(called: list[tuple[Any, ...]], tmp_path: Path) -> None:
    assert main(["train", "recipes/arm.yaml", "seed=1", "--out", "there", "blind=true"]) == 0
    assert main(["train", "recipes/arm.yaml"]) == 0
    assert main(["evaluate", "run"]) == 0
    assert main(["evaluate", "run", "--split", "test_combinations", "--data", "folder", "--out", "scores.json"]) == 0
    assert main(["generate", "run", "--image", "cat.png", "what is this ?"]) == 0
    assert main(["generate", "--image", "cat.png", "run"]) == 0
    assert main(["generate", "run", "--video", "cat.mp4"]) == 0
    assert main(["generate", "a prompt", "--top-k", "3", "--model", "there", "--stop", "a", "--stop", "b"]) == 0
    assert main(["generate", "--model", "there", "--compile", "prompt", "--draft", "small"]) == 0
    assert main(["bench", "generate"]) == 0
    assert main(["bench", "generate", "--precision", "int8", "--rounds", "2"]) == 0
    assert main(["bench", "attention", "--out", "bench.json"]) == 0
    assert main(["bench", "train"]) == 0
    assert main(["bench", "train", "--rounds", "3", "--precision", "bfloat16", "--out", "bench.json"]) == 0
    assert main(["bench", "serve"]) == 0
    chosen = ["--rounds", "2", "--users", "9", "--run", "a", "--run", "b=c", "--generator", "locust", "--out", "there"]
    assert main(["bench", "serve", *chosen]) == 0
    assert main(["selective", "p.yaml", "one", "two", "--workers", "3"]) == 0
    assert main(["selective", "protocols/p.yaml", "--work", "w", "--out", "o"]) == 0
    assert main(["watch", "run", "cat.mp4"]) == 0
    assert main(["watch", "run", "cat.mp4", "--query", "what", "--rate", "1", "--threshold", "2", "--every", "9"]) == 0
    assert main(["parity"]) == 1  # the stand-in does not say that all is equal
    assert main(["parity", "llama", "--explain", "--out", "parity.json"]) == 1
    assert called == [
        ("train_recipe", Path("recipes/arm.yaml"), ["seed=1", "blind=true"], Path("there")),
        ("train_recipe", Path("recipes/arm.yaml"), [], Path("runs/arm")),
        ("evaluate_run", Path("run"), "test", None, None),
        ("evaluate_run", Path("run"), "test_combinations", "folder", Path("scores.json")),
        ("generate", Path("run"), Path("cat.png"), "what is this ?"),
        ("generate", Path("run"), Path("cat.png"), None),
        ("generate", Path("run"), Path("cat.mp4"), None),
        ("continue_text", "there", "a prompt", ("top_k", 3), ("stop", ["a", "b"])),
        ("continue_text", "there", "prompt", ("draft", "small"), ("compiled", True)),
        ("bench_generate", ("rounds", 10), ("precision", None), ("out", None)),
        ("bench_generate", ("rounds", 2), ("precision", "int8"), ("out", None)),
        ("bench_attention", ("rounds", 20), ("precision", "float32"), ("out", Path("bench.json"))),
        ("bench_train", ("rounds", 30), ("precision", "float32"), ("out", None)),
        ("bench_train", ("rounds", 3), ("precision", "bfloat16"), ("out", Path("bench.json"))),
        ("bench_serve", (), ("plan", {}), ("backend", "auto"), ("generator", "auto"), ("out", None)),
        (
            "bench_serve",
            ("a", "b=c"),
            ("plan", {"users": 9, "rounds": 2}),
            ("backend", "auto"),
            ("generator", "locust"),
            ("out", Path("there")),
        ),
        (
            "run_selective",
            Path("p.yaml"),
            [Path("one"), Path("two")],
            (Path.cwd() / "cells", Path("runs/cells")),
            Path("runs/p"),
            ("workers", 3),
        ),
        (
            "run_selective",
            Path("protocols/p.yaml"),
            [],
            (Path.cwd() / "cells", Path("w")),
            Path("o"),
            ("workers", 2),
        ),
        ("watch", Path("run"), Path("cat.mp4"), None, ("rate", 2.0), ("threshold", 0.5), ("every", None)),
        ("watch", Path("run"), Path("cat.mp4"), "what", ("rate", 1.0), ("threshold", 2.0), ("every", 9.0)),
        ("run_parity", None, ("show_causes", False), ("out", None)),
        ("run_parity", "llama", ("show_causes", True), ("out", Path("parity.json"))),
    ]


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["trian", "x.yaml"], "did you mean 'train'?"),
        (["--fast"], "archlab --help"),
        (["compare", "--preset", "fast"], "'quick', 'standard'"),
        (["compare", "--fast"], "--fast"),
        (["compare", "--config", "x.yaml", "--preset", "quick"], "not allowed with"),
        (["compare", "--config", "no/such.yaml"], "no/such.yaml"),
        (["compare", "--budget", "rich"], "shared, paper, equal-params, equal-flops"),
        (["compare", "--price-per-hour", "cheap"], "cheap"),
        (["compare", "--price-per-hour", "-1"], "machine_price_per_hour=-1.0"),
        (["compare", "run.optimiser.steps=3"], "run.optimizer"),
        (["compare", "run.optimizer.steps"], "section.key=value"),
        (["train"], "CONFIG"),
        (["generate", "run"], "--image"),
        (["generate", "--image", "cat.png"], "a run, --image and at most one question"),
        (["generate", "run", "what", "is this", "--image", "cat.png"], "at most one question in quotes"),
        (["generate", "run", "--image", "cat.png", "--beams", "3"], "--beams: is for language models"),
        (["generate", "--model", "there"], "continues one prompt, not 0"),
        (["bench", "serv"], "'serv'"),
        (["bench", "train", "--users", "3"], "--users: is for 'archlab bench serve'"),
        (["bench", "serve", "--precision", "int8"], "--precision int8: a service computes as its --backend does"),
        (["bench", "train", "--rounds", "0"], "--rounds 0"),
        (["bench", "train", "--precision", "int8"], "--precision int8: only generate runs weights of 8 bits"),
        (["selective", "p.yaml"], "p.yaml: No such file"),
        (["selective", "p.yaml", "run", "--workers", "0"], "--workers 0"),
        (["parity", "lama"], "did you mean 'llama'?"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_that_names_it(
    argv: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    assert named in one_line(capsys)


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (UserError("optimizer.steps=0: must\nbe at least 1"), "optimizer.steps=0: must be at least 1"),
        (OSError(28, "No space left on device", "runs/state.pt"), "runs/state.pt: No space left on device"),
        (PermissionError(13, "Permission denied", "/root/x"), "/root/x: Permission denied"),
        (ModuleNotFoundError("No module named 'cupy.cuda'", name="cupy.cuda"), "pip install cupy"),
        (MemoryError(), "optimizer.batch_size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "optimizer.batch_size"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "optimizer.batch_size"),
    ],
)
def test_what_a_user_can_cause_ends_in_one_line(
    error: Exception, named: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raises(monkeypatch, error)
    assert main(["train", "x.yaml"]) == 2
    assert named in one_line(capsys)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes differ"), ModuleNotFoundError("no", name="archlab.nothing"), TypeError("a defect")]
)
def test_defects_of_ours_are_not_dressed_up_as_the_users(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    raises(monkeypatch, error)
    with pytest.raises(type(error)):
        main(["train", "x.yaml"])


def test_an_interrupted_run_says_how_to_resume(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raises(monkeypatch, KeyboardInterrupt())
    assert main(["train", "x.yaml"]) == 130
    assert "the same command resumes the run" in one_line(capsys)


def test_a_terminated_command_ends_as_an_interrupted_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    stand = ModuleType("archlab.train.recipes")
    stand.train_recipe = lambda *_: signal.raise_signal(signal.SIGTERM)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "archlab.train.recipes", stand)
    assert main(["train", "x.yaml"]) == 130
    assert "interrupted; the same command resumes" in one_line(capsys)
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_own_configuration_may_be_a_saved_one(called: list[tuple[Any, ...]], tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(CompareConfig(seeds=[8])))
    assert main(["compare", "--config", str(path), "--out", str(tmp_path / "again")]) == 0
    assert called[0][1] == CompareConfig(seeds=[8])
