"""Exports of the talkative runs, made once; the int8 of VL-JEPA beside its float32."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from archlab.export.onnx import export_onnx


@pytest.fixture(scope="session")
def shared_export(talkative_run: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`shared_export(arm)`: folder of an export. It is shared: copy it to change it."""

    @cache
    def exported(arm: str) -> Path:
        folder = tmp_path_factory.mktemp("exports") / arm
        export_onnx(talkative_run(arm), folder, int8=True)
        return folder

    return exported


@pytest.fixture
def own_export(shared_export: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """`own_export(arm)`: a copy that may be changed."""
    return lambda arm: shutil.copytree(shared_export(arm), tmp_path / f"export-{arm}")
