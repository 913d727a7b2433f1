"""A published card says how a run was made, and nothing of the machine that made it."""

from __future__ import annotations

from pathlib import Path

import pytest

import archlab
from archlab.compare.publish import portable


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (
            "archlab compare --preset standard --out /tmp/run4/standard",
            "archlab compare --preset standard --out standard",
        ),
        ("archlab compare --data '/home/me/my photos/'", "archlab compare --data 'my photos'"),
        ("archlab compare --data eurosat:/mnt/EuroSAT_RGB", "archlab compare --data eurosat:EuroSAT_RGB"),
        ("archlab compare run.encoder.weights=/mnt/vit", "archlab compare run.encoder.weights=vit"),
        ("archlab compare --data hub:owner/name --out runs/x", "archlab compare --data hub:owner/name --out runs/x"),
        ("archlab compare --data https://host/a/b", "archlab compare --data https://host/a/b"),
    ],
)
def test_of_absolute_paths_the_last_part_is_left(given: str, shown: str) -> None:
    assert portable(given) == shown


@pytest.mark.parametrize("card", sorted((Path(archlab.__file__).parent / "weights").glob("*/card.md")), ids=str)
def test_no_shipped_card_shows_an_absolute_path(card: Path) -> None:
    words = card.read_text(encoding="utf-8").replace("`", " ").split()
    assert [word for word in words if word.startswith("/")] == []
