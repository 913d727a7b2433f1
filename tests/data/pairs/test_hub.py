"""Promises of hub data, through local data sets that `datasets` builds; no network is used."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import datasets
import pytest

from archlab.config import PairsData
from archlab.data.example import Dataset
from archlab.data.pairs import hub, load_hub
from archlab.errors import UserError

Png = Callable[..., bytes]


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def make(folder: Path, png: Png, **numbers: range) -> str:
    """A local copy of a hub data set: parquet shards with an image and a class column."""
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["even", "odd"]),
        }
    )
    for split, rows in numbers.items():
        content = {
            "image": [{"bytes": png(n, (40, 20)), "path": None} for n in rows],
            "text": [str(n) for n in rows],
            "label": [n % 2 for n in rows],
        }
        table = datasets.Dataset.from_dict(content, features=features)
        (folder / "data").mkdir(parents=True, exist_ok=True)
        table.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return str(folder)


def load(name: str, *, stream: bool, **settings: object) -> Dataset:
    return load_hub(name, PairsData(**settings), image_size=8, seed=0, stream=stream)  # type: ignore[arg-type]


def shown(dataset: Dataset) -> dict[str, list[str]]:
    for split in dataset.splits.values():
        pixels = split.images[:]
        for one in split.examples:
            assert pixels[one.image, 4, 4, 0] == int(one.targets[0])
            assert pixels[one.image, 0, 0, 0] == 255
    return {name: [one.targets[0] for one in split.examples] for name, split in dataset.splits.items()}


@pytest.mark.parametrize("stream", [False, True])
def test_splits_of_the_hub_are_kept(tmp_path: Path, png: Png, stream: bool) -> None:
    name = make(tmp_path / "d", png, train=range(6), validation=range(10, 12), test=range(20, 22))
    assert shown(load(name, stream=stream)) == {
        "train": [str(n) for n in range(6)],
        "validation": ["10", "11"],
        "test": ["20", "21"],
    }


def test_downloaded_and_streamed_data_are_cut_alike(tmp_path: Path, png: Png) -> None:
    name = make(tmp_path / "d", png, train=range(20))
    downloaded, streamed = load(name, stream=False), load(name, stream=True)
    assert shown(downloaded) == shown(streamed)
    assert {key: len(texts) for key, texts in shown(streamed).items()} == {"train": 16, "validation": 2, "test": 2}


def test_class_columns_are_read_as_names(tmp_path: Path, png: Png) -> None:
    name = make(tmp_path / "d", png, train=range(8))
    for stream in (False, True):
        dataset = load(name, stream=stream, columns={"text": "label"})
        assert {one.targets[0] for split in dataset.splits.values() for one in split.examples} == {"even", "odd"}


def test_a_stream_is_passed_once_and_ends_at_the_limit(
    tmp_path: Path, png: Png, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = make(tmp_path / "d", png, train=range(30))
    read = []
    original = hub._encoded
    monkeypatch.setattr(hub, "_encoded", lambda cell: (read.append(1), original(cell))[1])
    dataset = load(name, stream=True, limit=5)
    assert len(read) == 5
    assert sum(map(len, shown(dataset).values())) == 5
    assert len(read) == 5


def test_a_stream_keeps_small_images_only(tmp_path: Path, png: Png) -> None:
    name = make(tmp_path / "d", png, train=range(5))
    images = load(name, stream=True)["train"].images
    assert all(len(one.read()) < len(png(0, (40, 20))) + 40 for one in images.encoded)  # type: ignore[attr-defined]


@pytest.mark.parametrize("stream", [False, True])
def test_broken_images_stop_or_are_skipped(tmp_path: Path, png: Png, stream: bool) -> None:
    name = make(tmp_path / "d", lambda n, size: b"junk" if n == 3 else png(n, size), train=range(8))
    with pytest.raises(UserError, match=r"split train, row 3: image .* is none of JPEG"):
        load(name, stream=stream)
    dataset = load(name, stream=stream, on_error="skip")
    (skipped,) = dataset["train"].skipped
    assert skipped.endswith("split train, row 3: is none of JPEG, PNG, GIF, WEBP, BMP, TIFF, PPM")
    assert sorted(chain.from_iterable(shown(dataset).values())) == ["0", "1", "2", "4", "5", "6", "7"]


def test_wrong_columns_are_listed(tmp_path: Path, png: Png) -> None:
    name = make(tmp_path / "d", png, train=range(3))
    with pytest.raises(UserError, match=r"no column 'caption'.*it has image, text, label"):
        load(name, stream=False, columns={"text": "caption"})


def test_what_the_hub_does_not_have_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="`datasets` cannot load it") as caught:
        load(str(tmp_path / "nobody" / "nothing"), stream=False)
    assert "\n" not in str(caught.value)


def test_without_datasets_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="pip install datasets"):
        load("owner/name", stream=False)
