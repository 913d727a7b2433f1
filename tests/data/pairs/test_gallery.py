"""The images of a source, whatever is said of them."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from archlab.data.pairs.gallery import Picture, pictures
from archlab.data.pairs.rows import Problems
from archlab.errors import UserError


def png(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(buffer, "PNG")
    return buffer.getvalue()


def read(place: Path, **how: str) -> dict[str, Picture]:
    problems = Problems(skip=False)
    return {picture.id: picture for picture in pictures(place, problems, **how)}  # type: ignore[arg-type]


def test_a_folder_gives_every_image_below_it_and_nothing_else(tmp_path: Path) -> None:
    for name in ("b.png", "sub/deep/A.JPG", ".trash/gone.png", "note.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png())
    found = read(tmp_path)
    assert {name: picture.said for name, picture in found.items()} == {
        "b.png": {},
        "sub/deep/A.JPG": {"folder": "sub/deep"},
    }
    assert found["b.png"].image.read() == png()


def test_a_single_image_is_a_source_too(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    assert list(read(tmp_path / "a.png")) == ["a.png"]


def test_described_images_carry_what_is_said_and_the_others_come_as_well(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).write_bytes(png())
    rows = [
        {"file_name": "a.png", "text": "one", "n": 1, "tags": ["x", 3, None], "deep": {"x": 1}, "none": None, 'q"': 1},
        {"file_name": "a.png", "text": "two", "n": 1, "huge": 10**30, "bad": float("nan"), "half": "\ud800"},
        {"file_name": "b.png", "ok": True},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    found = read(tmp_path)
    assert found["a.png"].said == {"text": ["one", "two"], "n": 1, "tags": ["x", 3]}
    assert found["b.png"].said == {"ok": True}
    assert found["c.png"].said == {}


def test_a_described_image_that_is_missing_is_listed_and_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "metadata.jsonl").write_text('{"image": "gone.png"}')
    (picture,) = read(tmp_path, image_column="image").values()
    with pytest.raises(UserError, match="no such file"):
        picture.image.read()


def test_parquet_gives_one_image_per_row_with_the_other_columns_and_the_split(tmp_path: Path) -> None:
    table = pa.table({"picture": [png(), png("blue")], "label": ["red", "blue"], "size": [1.5, None]})
    pq.write_table(table, tmp_path / "train-00000.parquet")
    found = read(tmp_path, image_column="picture")
    assert {name: picture.said for name, picture in found.items()} == {
        "train-00000.parquet#0": {"split": "train", "label": "red", "size": 1.5},
        "train-00000.parquet#1": {"split": "train", "label": "blue"},
    }
    assert found["train-00000.parquet#1"].image.read() == png("blue")
    with pytest.raises(UserError, match="no column 'image', only picture, label, size; name it with --image-column"):
        read(tmp_path)


def test_shards_give_one_image_per_sample(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, content in (("1.png", png()), ("1.txt", b"a cat"), ("2.png", png("blue")), ("2.json", b'{"n": 2}')):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    found = read(tmp_path / "a.tar")
    assert {name: picture.said for name, picture in found.items()} == {"a.tar/1": {"txt": "a cat"}, "a.tar/2": {"n": 2}}


def test_places_without_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing: no such file or folder"):
        read(tmp_path / "nothing")
    (tmp_path / "note.txt").write_text("x")
    for place in (tmp_path, tmp_path / "note.txt"):
        with pytest.raises(UserError, match="holds no image of the kinds"):
            read(place)
