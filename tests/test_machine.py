from __future__ import annotations

import itertools
import subprocess
from pathlib import Path

import pytest
import torch

from archlab import machine
from archlab.layers.packed import can_pack


def test_the_machine_is_described_by_plain_values() -> None:
    described = machine.describe()
    assert set(described) == {"cpu", "cores", "memory_gib", "torch", "python", "gpu"}
    assert described["cpu"]
    assert described["cores"] >= 1
    assert described["memory_gib"] > 0.1
    assert described["torch"] == torch.__version__


def _repository(folder: Path) -> Path:
    source = folder / "machine.py"
    source.write_text("first\n", encoding="utf-8")
    for command in (["init", "-q"], ["add", "machine.py"], ["commit", "-q", "-m", "first"]):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", "-C", str(folder), *identity, *command], check=True)
    return source


def test_the_commit_says_whether_files_were_changed_since(tmp_path: Path) -> None:
    source = _repository(tmp_path)
    commit = machine.git_commit(tmp_path)
    assert len(commit) == 40
    assert set(commit) <= set("0123456789abcdef")
    source.write_text("second\n", encoding="utf-8")
    assert machine.git_commit(tmp_path) == f"{commit}-dirty"


def test_a_package_inside_somebody_elses_checkout_has_no_commit(tmp_path: Path) -> None:
    _repository(tmp_path)
    installed = tmp_path / "site-packages"
    installed.mkdir()
    (installed / "machine.py").touch()
    assert machine.git_commit(installed) == "unknown"


def test_without_git_the_commit_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.git_commit() == "unknown"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_peak_is_the_best_of_all_products(precision: str) -> None:
    # Two sizes, two products each; they take 4, 2, 1 and 8 seconds.
    times = itertools.chain.from_iterable(
        (start, start + spent) for start, spent in ((0, 4), (10, 2), (20, 1), (30, 8))
    )
    peak = machine.matmul_peak(precision, sizes=(16, 32), repeats=2, clock=lambda: next(times))  # type: ignore[arg-type]
    assert peak == pytest.approx(2 * 32**3 / 1e9)


@pytest.mark.parametrize("packed", [True, False])
def test_the_bandwidth_is_that_of_the_fastest_pass_after_the_first(
    packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passes of 1, 5, 3 and 4 seconds over eight matrices of one row, and of 1, 6, 2 and 7 over them in blocks."""
    if packed and not can_pack(torch.float32):
        pytest.skip("needs oneDNN")
    monkeypatch.setattr("archlab.machine.can_pack", lambda dtype: packed)
    ticks = iter([0, 1, 10, 15, 20, 23, 30, 34, 40, 41, 50, 56, 60, 62, 70, 77])
    found = machine.matvec_bandwidth("float32", megabytes=0, repeats=3, clock=lambda: next(ticks))
    assert found == pytest.approx(8 * 4096 * 4 / (2 if packed else 3) / 1e9)


def test_the_limit_of_a_container_counts_and_no_limit_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "memory.max"
    monkeypatch.setattr(machine, "_MEMORY_LIMITS", (file, tmp_path / "none"))
    whole = machine.memory_limit()
    assert whole > 2**26
    for text, limit in {"max\n": whole, "67108864\n": 2**26, f"{2**63}\n": whole}.items():
        file.write_text(text)
        assert machine.memory_limit() == limit


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (8, 7)])
def test_serving_leaves_one_core_to_the_requests_where_there_are_two(
    monkeypatch: pytest.MonkeyPatch, cores: int, threads: int
) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: cores)
    assert machine.computing_threads() == threads
