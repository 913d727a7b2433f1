"""Per-item values of a cell: kept whole in a small file, and read as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from archlab.compare.grid.items import FILE, StoredItems, write_items
from archlab.errors import UserError
from archlab.evaluate.measure import Measurement


def answered(seed: int, items: int = 1600) -> Measurement:
    """Questions of as many kinds as the scenes have, all together and kind by kind, and captions."""
    rng, one = np.random.default_rng(seed), Measurement()
    right, images = (rng.random(items) < 0.6).astype(float), np.sort(rng.integers(0, items // 4, items))
    one.add("vqa/accuracy", right, images)
    for kind, rows in enumerate(np.array_split(np.arange(items), 8)):
        one.add(f"vqa/kind-{kind}", right[rows], images[rows])
    one.add("caption/cider_d", 10 * rng.random(items // 4), np.arange(items // 4))
    for k in (1, 5, 10):
        one.add(
            f"retrieval/image_to_text_r{k}", (rng.random(items // 4) < 0.1 * k).astype(float), np.arange(items // 4)
        )
    one.add("retrieval_pmi/image_to_text_r1", [1.0, 0.0], np.arange(2))
    return one


def test_items_are_read_as_they_were_measured(tmp_path: Path) -> None:
    measured = {"test": ("scenes", answered(0)), "test_forms/no_query": ("others", answered(1, 80))}
    write_items(tmp_path / FILE, measured)
    kept = StoredItems(tmp_path / FILE)
    for where, (images, one) in measured.items():
        for metric, values in one.values.items():
            found = kept.get(where, metric)
            assert found is not None
            assert found[2] == images
            np.testing.assert_array_equal(found[1], one.clusters[metric])
            np.testing.assert_allclose(found[0], values, rtol=1e-3)
            if metric != "caption/cider_d":
                np.testing.assert_array_equal(found[0], values)
    assert kept.get("test", "vqa/colour") is None
    assert kept.get("validation", "vqa/accuracy") is None


def test_a_cell_of_eight_places_is_small_enough_to_commit(tmp_path: Path) -> None:
    write_items(tmp_path / FILE, {f"place-{seed}": ("scenes", answered(seed)) for seed in range(8)})
    assert (tmp_path / FILE).stat().st_size < 40_000


def test_the_same_items_are_the_same_file(tmp_path: Path) -> None:
    files = [tmp_path / name / FILE for name in ("one", "two")]
    for path in files:
        write_items(path, {"test": ("scenes", answered(0))})
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("damage", [None, b"", b"PK no archive", "cut"])
def test_a_file_that_is_missing_or_damaged_says_what_to_do(tmp_path: Path, damage: bytes | str | None) -> None:
    path = tmp_path / FILE
    write_items(path, {"test": ("scenes", answered(0))})
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-300] if isinstance(damage, str) else damage)
    with pytest.raises(UserError, match=r"items\.npz: is missing or damaged; remove its folder to run it again"):
        StoredItems(path).get("test", "vqa/accuracy")
