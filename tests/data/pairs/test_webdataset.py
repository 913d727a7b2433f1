"""Promises of the WebDataset reader, on tar files written here."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from io import BytesIO
from itertools import chain
from pathlib import Path

import pytest

from archlab.config import PairsData
from archlab.data.example import Dataset
from archlab.data.images import FileImage
from archlab.data.pairs import load_pairs
from archlab.errors import UserError

Png = Callable[..., bytes]


def load(place: Path, **settings: object) -> Dataset:
    return load_pairs(place, PairsData(**settings), image_size=8, seed=0)  # type: ignore[arg-type]


def write(path: Path, members: list[tuple[str, bytes]], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        folder = tarfile.TarInfo("folder.txt")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, BytesIO(data))
    return path


def samples(png: Png, numbers: range, folder: str = "") -> list[tuple[str, bytes]]:
    return [
        (f"{folder}{n:04}.{ending}", data) for n in numbers for ending, data in (("png", png(n)), ("txt", b"%d" % n))
    ]


def shown(dataset: Dataset) -> dict[str, list[str]]:
    for split in dataset.splits.values():
        pixels = split.images[:]
        for one in split.examples:
            assert pixels[one.image, 0, 0, 0] == int(one.targets[0])
    return {name: [one.targets[0] for one in split.examples] for name, split in dataset.splits.items()}


def test_images_and_texts_of_one_name_are_one_sample(tmp_path: Path, png: Png) -> None:
    texts = shown(load(write(tmp_path / "shard.tar", samples(png, range(10)))))
    assert sorted(chain.from_iterable(texts.values()), key=int) == [str(n) for n in range(10)]


def test_shards_are_split_by_their_names(tmp_path: Path, png: Png) -> None:
    write(tmp_path / "train-0.tar", samples(png, range(4)))
    write(tmp_path / "train-1.tar", samples(png, range(4, 6)))
    write(tmp_path / "val-0.tar", samples(png, range(10, 11)))
    write(tmp_path / "test" / "0.tar", samples(png, range(20, 22)))
    assert shown(load(tmp_path)) == {
        "train": ["0", "1", "2", "3", "4", "5"],
        "validation": ["10"],
        "test": ["20", "21"],
    }


def test_json_members_hold_questions_in_any_order_of_members(tmp_path: Path, png: Png) -> None:
    members = []
    for n in range(4):
        members += [
            (f"d.x/{n}.json", json.dumps({"question": "number?", "answer": n}).encode()),
            (f"d.x/{n}.png", png(n)),
        ]
    dataset = load(write(tmp_path / "s.tar", members))
    shown(dataset)
    one = dataset["train"].examples[0]
    assert (one.task, one.queries) == ("vqa", ("number?",))


def test_samples_of_one_name_in_two_folders_are_two(tmp_path: Path, png: Png) -> None:
    members = [(f"{n}/same.{ending}", data) for n in range(4) for ending, data in (("png", png(n)), ("txt", b"%d" % n))]
    file = write(tmp_path / "s.tar", members)
    assert sorted(chain.from_iterable(shown(load(file)).values())) == ["0", "1", "2", "3"]


def test_only_the_bytes_of_an_image_are_read(tmp_path: Path, png: Png, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = load(write(tmp_path / "s.tar", samples(png, range(20))))
    sizes = []
    original = FileImage.read
    monkeypatch.setattr(FileImage, "read", lambda self: (data := original(self), sizes.append(len(data)))[0])
    dataset["train"].images[2:5]
    assert sizes == [len(png())] * 3


@pytest.mark.parametrize(
    ("members", "rule"),
    [
        ([("b.txt", b"t")], "sample b: has no image; add b.jpg"),
        ([("b.png", b"junk"), ("b.txt", b"t")], r"sample b: image .*member b\.png: is none of JPEG"),
        ([("b.png", None)], "sample b: nothing is written in 'txt'"),
        ([("b.png", None), ("b.txt", b"\xff\xfe")], "sample b: its text is not valid"),
        ([("b.png", None), ("b.json", b"{")], "sample b: its text is not valid"),
        ([("b.png", None), ("b.json", b"[1]")], "the json holds a list instead of an object"),
    ],
)
def test_a_broken_sample_stops_or_is_skipped_once(
    tmp_path: Path, png: Png, members: list[tuple[str, bytes | None]], rule: str
) -> None:
    full = [(name, png(99) if data is None else data) for name, data in members]
    file = write(tmp_path / "s.tar", samples(png, range(5)) + full)
    with pytest.raises(UserError, match=rule):
        load(file)
    dataset = load(file, on_error="skip")
    assert len(dataset["train"].skipped) == 1
    assert sorted(chain.from_iterable(shown(dataset).values())) == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("kind", ["compressed", "text", "in a header", "in an image", "between members"])
def test_what_is_no_complete_tar_is_named(tmp_path: Path, png: Png, kind: str) -> None:
    file = write(tmp_path / "s.tar", samples(png, range(9)), "w:gz" if kind == "compressed" else "w")
    ends = {"in a header": 512 + 1100, "in an image": 512 + 2048 + 520, "between members": 512 + 2048}
    if kind in ends:
        file.write_bytes(file.read_bytes()[: ends[kind]])
    if kind == "text":
        file.write_bytes(b"hello " * 300)
    with pytest.raises(UserError, match=r"s\.tar: is no complete, uncompressed tar file"):
        load(file, on_error="skip")


def test_wrong_columns_suggest_a_mapping(tmp_path: Path, png: Png) -> None:
    members = [(f"{n}.{e}", d) for n in range(3) for e, d in (("png", png(n)), ("json", b'{"caption": "%d"}' % n))]
    file = write(tmp_path / "s.tar", members)
    with pytest.raises(UserError, match=r"data\.pairs\.columns=\{text: caption\}"):
        load(file)
    assert sorted(chain.from_iterable(shown(load(file, columns={"text": "caption"})).values())) == ["0", "1", "2"]
