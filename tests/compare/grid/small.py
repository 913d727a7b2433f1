"""Settings of cells that train in a moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TINY = {"width": 16, "depth": 1, "heads": 2, "feed_forward": 32}


def small_base(weights: Path) -> dict[str, Any]:
    """The `base` of a protocol: three steps of arms of one layer, on features of the encoder in a folder."""
    return {
        "data": {"scenes": {"train_images": 30, "validation_images": 8, "test_images": 8}},
        "tokenizer": {"vocab_size": 300, "max_target": 16},
        "encoder": {"weights": str(weights)},
        "trunk": TINY,
        "vljepa": {"embedding": 16, "target": TINY, "decoder": TINY},
        "optimizer": {"steps": 3, "batch_size": 8},
        "evaluation": {"checkpoints": 1, "items": 6},
    }
