"""What several workers of one run of the tests need, made by the worker that asks first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


def made_once(folder: Path, make: Callable[[str, Path], object]) -> Callable[[str], Path]:
    """`made(name)`: the folder of that name in `folder`; whoever asks while `make` fills it waits."""

    def made(name: str) -> Path:
        folder.mkdir(exist_ok=True)
        with FileLock(folder / f"{name}.lock"):
            if not (folder / name).exists():
                make(name, folder / name)
        return folder / name

    return made
