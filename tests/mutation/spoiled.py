"""Runs tests against a copy of the package, in a process that has the large libraries loaded already.

Loading PyTorch and its kin takes longer than most tests. A fork server loads them once; every run is a fork of it. This
module must not import `archlab`: the fork would hold the original instead of the copy.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parents[1]
_PRELOADED = [
    "hypothesis",
    "matplotlib.pyplot",
    "numpy",
    "pytest",
    "scipy.stats",
    "sklearn.metrics",
    "torch",
    "transformers",
]
_LIMIT = 500  # seconds

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(_PRELOADED)


def run(package: Path, *tests: str) -> tuple[int | None, str]:
    """Run tests, named below `tests`, against a copy of the package.

    Returns:
        exit code of pytest (negative: the signal that ended it; None: it took too long), and what it printed.
    """
    with tempfile.NamedTemporaryFile() as output:
        process = _context.Process(target=_run, args=(package, tests, output.name))
        process.start()
        process.join(_LIMIT)
        process.kill()
        return process.exitcode, Path(output.name).read_text(encoding="utf-8", errors="replace")


def _run(package: Path, tests: tuple[str, ...], output: str) -> None:
    for name in [name for name in os.environ if name.startswith(("PYTEST_", "COV_", "COVERAGE_"))]:
        del os.environ[name]
    os.environ["PYTHONPATH"] = str(package.parent)  # for processes that a test starts
    sys.path.insert(0, str(package.parent))
    os.chdir(TESTS.parent)
    with open(output, "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            import pytest

            import archlab

            assert archlab.__file__ == str(package / "__init__.py"), archlab.__file__
            options = ["-q", "-x", "-p", "no:cacheprovider", "--no-cov"]
            status = int(pytest.main([*options, *(f"tests/{test}" for test in tests)]))
    sys.exit(status)
