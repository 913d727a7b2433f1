"""From a folder to an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from archlab.serve.engine import Engine

Choice = Literal["auto", "torch", "onnx", "onnx-int8"]


def open_engine(folder: Path, backend: Choice) -> Engine:
    """Open a run, or an export of one.

    Args:
        backend: "auto" is torch where there is a GPU, else ONNX Runtime.

    Raises:
        UserError: the folder holds nothing that can be served, or not so.
    """
    raise NotImplementedError
