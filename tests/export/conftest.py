from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def own_export(exported: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """`own_export(arm)`: a copy of `exported(arm)` that may be changed."""
    return lambda arm: shutil.copytree(exported(arm), tmp_path / f"export-{arm}")
