"""What all tests share: few threads, an own cache folder, and the real data where they lie beside the checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
# Derandomised: a run on another machine tries the same examples. No deadline: a slow machine is not a defect.
settings.register_profile("archlab", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("archlab")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Cached features go to a temporary folder, not to the user's."""
    os.environ["ARCHLAB_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real data sets: `ARCHLAB_DATA`, or `../shared/data` beside the checkout."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("ARCHLAB_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set ARCHLAB_DATA to their folder")
    return folder
