"""Promises of an image folder with clips in it: they are read as clips, broken ones are counted, images stay images."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.clips import greys, levels, write_clip

from archlab.config import DataConfig, PairsData
from archlab.data.example import Dataset
from archlab.data.pairs import load_pairs
from archlab.data.sources import load_dataset
from archlab.errors import UserError


def described(folder: Path, names: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    lines = [json.dumps({"file_name": name, "text": f"clip {number}"}) for number, name in enumerate(names)]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six clips, of which clip n begins with frame n; and one image."""
    names = [f"{number}{suffix}" for number, suffix in enumerate([".mp4", ".webm", ".avi", ".MOV", ".mkv", ".mp4"])]
    place = described(tmp_path / "clips", [*names, "still.png"])
    for number, name in enumerate(names):
        write_clip(place / name.lower(), greys(12)[number:]).rename(place / name)
    Image.new("RGB", (16, 16), (100, 100, 100)).save(place / "still.png")
    return place


def load(place: Path, frames: int = 2, **settings: object) -> Dataset:
    return load_pairs(place, PairsData(**settings), image_size=16, seed=0, frames=frames)  # type: ignore[arg-type]


def test_clips_and_images_of_one_folder_are_clips_of_so_many_frames(folder: Path) -> None:
    dataset = load(folder)
    found = {}
    for split in dataset.splits.values():
        for one in split.examples:
            clip = split.images[one.image : one.image + 1]
            assert clip.shape == (1, 2, 16, 16, 3)
            found[one.targets[0]] = levels(clip[0])
    assert found.pop("clip 6") == [5, 5]
    for name, (first, second) in found.items():
        number = int(name.removeprefix("clip "))
        assert number < first < second < 12


def test_how_many_frames_are_taken_is_part_of_the_digest(folder: Path) -> None:
    digests = [load(folder, frames)["train"].image_digest for frames in (2, 3, 2)]
    assert digests[0] == digests[2] != digests[1]


def test_broken_clips_are_skipped_and_listed_or_stop_with_one_line(folder: Path) -> None:
    (folder / "2.avi").write_bytes(b"")
    whole = (folder / "4.mkv").read_bytes()
    (folder / "4.mkv").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"metadata.jsonl, line 3: clip .+2.avi: is empty; replace it, or leave such"):
        load(folder)
    skipped = load(folder, on_error="skip")
    lines = [line for split in skipped.splits.values() for line in split.skipped]
    assert len(lines) == 2
    assert lines[0] == "metadata.jsonl, line 3: clip 2.avi: is empty"
    assert lines[1].startswith("metadata.jsonl, line 5: clip 4.mkv: ")
    assert sum(len(split.images) for split in skipped.splits.values()) == 5


def test_limits_of_clips_are_settings(folder: Path) -> None:
    with pytest.raises(UserError, match=r"1\.5 seconds, at most 1 are allowed; .+ raise data\.pairs\.max_seconds"):
        load(folder, max_seconds=1.0)
    with pytest.raises(UserError, match=r"1024 pixels a frame, at most 500 .+ raise data\.pairs\.max_pixels"):
        load(folder, max_pixels=500)


@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_a_clip_among_images_says_how_clips_are_read(folder: Path, on_error: str) -> None:
    with pytest.raises(UserError, match=r"line 1: .+0\.mp4 is a clip; say how many .+, data\.frames=8$"):
        load(folder, frames=0, on_error=on_error)


@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_without_pyav_no_clip_is_skipped(folder: Path, on_error: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"pip install av$"):
        load(folder, on_error=on_error)


def test_images_are_read_without_pyav_and_a_gif_is_an_image_among_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    for number in range(4):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.gif")
    described(tmp_path, [f"{number}.gif" for number in range(4)])
    assert load(tmp_path, frames=0)["train"].images[:].shape == (2, 16, 16, 3)


def test_folders_named_after_classes_may_hold_clips(tmp_path: Path) -> None:
    for number in range(8):
        kind = tmp_path / ("falling", "rising")[number % 2]
        kind.mkdir(exist_ok=True)
        write_clip(kind / f"{number}.mp4", greys(6 + number)[:: 1 if number % 2 else -1])
    with pytest.raises(UserError, match=r"holds clips; say how many frames of each are looked at, data\.frames=8"):
        load(tmp_path, frames=0)
    dataset = load(tmp_path)
    for split in dataset.splits.values():
        for one in split.examples:
            first, second = levels(split.images[one.image : one.image + 1][0])
            assert (first < second) == (one.targets[0] == "rising")


def test_frames_are_refused_where_nothing_moves(tmp_path: Path) -> None:
    for number in range(4):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    described(tmp_path, [f"{number}.png" for number in range(4)])
    with pytest.raises(UserError, match=r"data\.frames=8: .+ holds no clip; leave it at 0"):
        load_dataset(DataConfig(source=str(tmp_path), frames=8), 16)
    for source in ("easy-vqa", "hub:owner/name", "owner/name", "stream:owner/name"):
        with pytest.raises(UserError, match=rf"data\.frames=8: is for the built-in scenes .+ data\.source='{source}'"):
            load_dataset(DataConfig(source=source, frames=8), 16)
    with pytest.raises(UserError, match=r"data\.source='scene': .+did you mean 'scenes'"):
        load_dataset(DataConfig(source="scene", frames=8), 16)


def test_one_clip_in_two_rows_is_one_clip(tmp_path: Path) -> None:
    names = ["a.mp4", "b.mp4", "c.mp4", "a.mp4"]
    for number, name in enumerate(names[:3]):
        write_clip(tmp_path / name, greys(6 + number))
    dataset = load(described(tmp_path, names))
    assert sum(len(split.images) for split in dataset.splits.values()) == 3
    assert np.unique([one.id for split in dataset.splits.values() for one in split.examples]).size == 4
