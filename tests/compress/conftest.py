"""A parent of each arm, and a tiny recipe of every method."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from archlab.compress.recipe import Variant
from archlab.compress.variants import Parent, copy_parent, make_variant, open_parent
from archlab.config import TransformerConfig
from archlab.train.setup import Setup

VARIANTS = {
    "rounded": Variant(method="bfloat16"),
    "sparse": Variant(method="magnitude", sparsity=0.5, steps=2),
    "narrow": Variant(method="structured", kept=0.4, examples=16),
    "student": Variant(
        method="distillation", trunk=TransformerConfig(width=16, depth=1, heads=2, feed_forward=32), steps=3
    ),
}


@pytest.fixture(scope="session")
def parent(talkative_run: Callable[[str], Path], tiny_setup: Setup) -> Callable[[str], Parent]:
    def opened(arm: str) -> Parent:
        checkpoint = open_parent(talkative_run(arm))
        return Parent(checkpoint, checkpoint.digest(), tiny_setup)

    return opened


@pytest.fixture(scope="session")
def runs(parent: Callable[[str], Parent], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of both arms' runs and of their variants of `VARIANTS`. It is shared: copy what is to be changed."""
    folder = tmp_path_factory.mktemp("compressed")
    for arm in ("token", "vljepa"):
        copy_parent(parent(arm), folder / f"{arm}-float32")
        for name, variant in VARIANTS.items():
            make_variant(parent(arm), name, variant, folder / f"{arm}-{name}")
    return folder
