from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# pytest's importlib mode puts no test folder on the path, so the generator is loaded by its file.
spec = importlib.util.spec_from_file_location("synthetic_results", Path(__file__).with_name("synthetic.py"))
assert spec is not None
assert spec.loader is not None
synthetic = importlib.util.module_from_spec(spec)
sys.modules["synthetic_results"] = synthetic
spec.loader.exec_module(synthetic)


@pytest.fixture(scope="session")
def make() -> Callable[..., dict[str, Any]]:
    """Makes synthetic results: (seeds=3, *, questions=True, price=0.9)."""
    return synthetic.synthetic_results


@pytest.fixture
def results(make: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """Three seeds, with questions and captions; a fresh copy for each test."""
    return make()


@pytest.fixture
def decided(results: dict[str, Any]) -> dict[str, Any]:
    """The same with paired differences of curves, latency and probes, all won by VL-JEPA."""
    return synthetic.with_paired_measurements(results)
