"""Promises of the cut: by image, deterministic, whole units, and no overlap that a reader is not told of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archlab.config import PairsData
from archlab.data.example import Dataset
from archlab.data.pairs import load_pairs
from archlab.data.pairs.splits import hold_out, units
from archlab.errors import UserError

Png = Callable[..., bytes]
SHARES = {"validation": 0.1, "test": 0.2}


def load(folder: Path, rows: list[dict[str, object]], seed: int = 0, **settings_: object) -> Dataset:
    folder.mkdir(exist_ok=True)
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return load_pairs(folder, PairsData(**settings_), image_size=8, seed=seed)  # type: ignore[arg-type]


def files(dataset: Dataset) -> dict[str, set[str]]:
    return {name: {one.id.partition("#")[0] for one in split.examples} for name, split in dataset.splits.items()}


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 40)), min_size=12, max_size=80),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_no_group_and_no_image_is_ever_in_two_splits(
    rows: list[tuple[int, int]], seed: int, data: st.DataObject
) -> None:
    images = [(f"image{image}", "" if group > 30 else f"g{group}") for image, group in rows]
    unit_of = units(images)
    if len(set(unit_of.values())) < 3:
        return
    cut = hold_out(unit_of, SHARES, seed, "data")
    assert set(cut.values()) == {"train", "validation", "test"}
    for group in {group for _, group in images if group}:
        assert len({cut[image] for image, other in images if other == group}) == 1
    shuffled = data.draw(st.permutations(images))
    assert hold_out(units(shuffled), SHARES, seed, "data") == cut


@pytest.mark.parametrize("count", [10, 101, 1000])
def test_the_shares_are_exact_without_groups(count: int) -> None:
    cut = hold_out({str(n): str(n) for n in range(count)}, SHARES, 0, "data")
    sizes = [list(cut.values()).count(name) for name in ("validation", "test")]
    assert sizes == [round(0.1 * count), round(0.2 * count)]


def test_a_dominant_group_stays_in_training() -> None:
    unit_of = {str(n): "giant" if n < 80 else str(n) for n in range(100)}
    for seed in range(5):
        cut = hold_out(unit_of, SHARES, seed, "data")
        assert {cut[str(n)] for n in range(80)} == {"train"}
        assert list(cut.values()).count("test") <= 20


def test_the_cut_depends_on_the_seed_and_nothing_else(tmp_path: Path, png: Png) -> None:
    rows: list[dict[str, object]] = [{"file_name": f"{n}.png", "text": "t"} for n in range(30)]
    for n in range(30):
        (tmp_path / f"{n}.png").write_bytes(png(n))
    first = files(load(tmp_path, rows))
    assert files(load(tmp_path, rows[::-1])) == first
    assert files(load(tmp_path, rows, seed=1)) != first


def test_renamed_images_keep_their_split(tmp_path: Path, png: Png) -> None:
    texts = {}
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        for n in range(20):
            (folder / f"{name}{n}.png").write_bytes(png(n))
        dataset = load(folder, [{"file_name": f"{name}{n}.png", "text": f"t{n}"} for n in range(20)])
        texts[name] = {key: {one.targets[0] for one in split.examples} for key, split in dataset.splits.items()}
    assert texts["a"] == texts["b"]


def test_equal_bytes_under_two_names_are_one_image_in_one_split(tmp_path: Path, png: Png) -> None:
    for n in range(20):
        for copy in "ab":
            (tmp_path / f"{n}{copy}.png").write_bytes(png(n))
    rows: list[dict[str, object]] = [{"file_name": f"{n}{copy}.png", "text": copy} for copy in "ab" for n in range(20)]
    dataset = load(tmp_path, rows)
    assert sum(len(split.images) for split in dataset.splits.values()) == 20
    for names in files(dataset).values():
        assert {name.replace("a.", "b.") for name in names if "a." in name} == {name for name in names if "b." in name}


def test_the_group_column_keeps_groups_together(tmp_path: Path, png: Png) -> None:
    for n in range(40):
        (tmp_path / f"{n}.png").write_bytes(png(n))
    rows: list[dict[str, object]] = [{"file_name": f"{n}.png", "text": "t", "who": n % 10} for n in range(40)]
    found = files(load(tmp_path, rows, columns={"group": "who"}))
    groups = [{int(name.split(".")[0]) % 10 for name in names} for names in found.values()]
    assert sum(map(len, groups)) == 10


def test_only_the_missing_split_is_cut(tmp_path: Path, png: Png) -> None:
    for n in range(20):
        (tmp_path / f"{n}.png").write_bytes(png(n))
    rows: list[dict[str, object]] = [
        {"file_name": f"{n}.png", "text": "t", "split": "test_2016" if n < 5 else "train"} for n in range(20)
    ]
    found = files(load(tmp_path, rows))
    assert set(found) == {"train", "validation", "test_2016"}
    assert found["test_2016"] == {f"{n}.png" for n in range(5)}
    assert len(found["validation"]) == 2


@pytest.mark.parametrize(
    ("splits", "rule"),
    [
        (["train", "", "train"], r"line 2: belongs to no split, while other rows do \(train\)"),
        (["test", "test", "test"], "has test but no training split"),
        (["train", "train", "holdout"], "split 'holdout' is unknown; it must be train, validation, test"),
    ],
)
def test_unusable_splits_are_named(tmp_path: Path, png: Png, splits: list[str], rule: str) -> None:
    for n in range(3):
        (tmp_path / f"{n}.png").write_bytes(png(n))
    rows: list[dict[str, object]] = [
        {"file_name": f"{n}.png", "text": "t", "split": split} for n, split in enumerate(splits)
    ]
    with pytest.raises(UserError, match=rule):
        load(tmp_path, rows)


def test_an_empty_split_column_is_none(tmp_path: Path, png: Png) -> None:
    for n in range(3):
        (tmp_path / f"{n}.png").write_bytes(png(n))
    found = files(load(tmp_path, [{"file_name": f"{n}.png", "text": "t", "split": ""} for n in range(3)]))
    assert [len(names) for names in found.values()] == [1, 1, 1]


def test_too_few_images_to_cut_is_an_error(tmp_path: Path, png: Png) -> None:
    for n in range(2):
        (tmp_path / f"{n}.png").write_bytes(png(n))
    with pytest.raises(UserError, match=r"2 images .* at least 3 must be usable"):
        load(tmp_path, [{"file_name": f"{n}.png", "text": "t"} for n in range(2)])


def test_a_share_of_nothing_is_an_error_where_a_split_is_missing(tmp_path: Path, png: Png) -> None:
    for n in range(9):
        (tmp_path / f"{n}.png").write_bytes(png(n))
    rows: list[dict[str, object]] = [{"file_name": f"{n}.png", "text": "t"} for n in range(9)]
    with pytest.raises(UserError, match=r"data\.pairs\.test_fraction=0.*must be above 0"):
        load(tmp_path, rows, test_fraction=0.0)


def test_images_and_captions_shared_between_given_splits_are_noted(tmp_path: Path, png: Png) -> None:
    rows: list[dict[str, object]] = []
    for n, (split, image, text) in enumerate(
        [
            ("train", 0, "Cat"),
            ("train", 1, "dog"),
            ("val", 2, "cow"),
            ("test", 0, "cat "),
            ("test", 3, "hen"),
            ("test", 4, "hen"),
        ]
    ):
        (tmp_path / f"{n}.png").write_bytes(png(image))
        rows.append({"file_name": f"{n}.png", "text": text, "split": split})
    assert load(tmp_path, rows).notes == [
        "1 of 3 test images occur in train too: test measures new texts about known images, not new images",
        "of 3 test captions, 1 occur in train too and 1 repeat an earlier one",
    ]
