"""Promises of the parquet reader: layouts of image columns and shards, bounded memory, damaged files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from archlab.config import PairsData
from archlab.data.example import Dataset
from archlab.data.pairs import load_pairs, parquet
from archlab.errors import UserError

Png = Callable[..., bytes]


def load(place: Path, **settings: object) -> Dataset:
    return load_pairs(place, PairsData(**settings), image_size=8, seed=0)  # type: ignore[arg-type]


def write(path: Path, columns: dict[str, Sequence[Any]], row_group: int = 4, **metadata: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata(metadata or None), path, row_group_size=row_group)
    return path


def columns(png: Png, numbers: Sequence[int]) -> dict[str, Sequence[Any]]:
    return {"image": [png(n) for n in numbers], "text": [str(n) for n in numbers]}


def shown(dataset: Dataset) -> dict[str, list[str]]:
    """Texts by split, after checking that every example shows the image it was written with."""
    for split in dataset.splits.values():
        pixels = split.images[:]
        for one in split.examples:
            assert pixels[one.image, 0, 0, 0] == int(one.targets[0])
    return {name: [one.targets[0] for one in split.examples] for name, split in dataset.splits.items()}


def test_one_file_with_a_binary_column(tmp_path: Path, png: Png) -> None:
    texts = shown(load(write(tmp_path / "data.parquet", columns(png, range(11)))))
    assert sorted(chain.from_iterable(texts.values()), key=int) == [str(n) for n in range(11)]


def test_the_struct_of_datasets(tmp_path: Path, png: Png) -> None:
    (tmp_path / "1.png").write_bytes(png(1))
    cells = [{"bytes": png(0), "path": "0.png"}, {"bytes": None, "path": "1.png"}, {"bytes": png(2), "path": None}]
    file = write(tmp_path / "data.parquet", {"image": cells, "text": ["0", "1", "2"]})
    assert sorted(chain.from_iterable(shown(load(file)).values())) == ["0", "1", "2"]


def test_a_column_of_file_names(tmp_path: Path, png: Png) -> None:
    for n in range(3):
        (tmp_path / f"{n}.png").write_bytes(png(n))
    file = write(tmp_path / "data.parquet", {"image": [f"{n}.png" for n in range(3)], "text": ["0", "1", "2"]})
    assert sorted(chain.from_iterable(shown(load(file)).values())) == ["0", "1", "2"]


def test_shards_are_split_by_their_names(tmp_path: Path, png: Png) -> None:
    write(tmp_path / "data" / "train-00000-of-00002.parquet", columns(png, range(5)))
    write(tmp_path / "data" / "train-00001-of-00002.parquet", columns(png, range(5, 9)))
    write(tmp_path / "data" / "validation-00000-of-00001.parquet", columns(png, [20]))
    write(tmp_path / "test" / "a.parquet", columns(png, [30, 31]))
    assert shown(load(tmp_path)) == {
        "train": [str(n) for n in range(9)],
        "validation": ["20"],
        "test": ["30", "31"],
    }


def test_shards_without_a_split_name_are_cut(tmp_path: Path, png: Png) -> None:
    write(tmp_path / "part-0.parquet", columns(png, range(10)))
    write(tmp_path / "part-1.parquet", columns(png, range(10, 20)))
    assert {name: len(texts) for name, texts in shown(load(tmp_path)).items()} == {
        "train": 16,
        "validation": 2,
        "test": 2,
    }


def test_a_split_column_and_a_mapping(tmp_path: Path, png: Png) -> None:
    data = {"pic": [png(n) for n in range(4)], "q": ["what?"] * 4, "a": ["0", "1", "2", "3"]}
    file = write(tmp_path / "d.parquet", {**data, "part": ["train", "dev", "test", "train"]})
    mapping = {"image": "pic", "question": "q", "answer": "a", "split": "part"}
    dataset = load(file, columns=mapping)
    assert shown(dataset) == {"train": ["0", "3"], "validation": ["1"], "test": ["2"]}
    assert dataset["test"].examples[0].queries == ("what?",)


def test_equal_images_are_decoded_once_per_split(tmp_path: Path, png: Png) -> None:
    data = {"image": [png(n % 5) for n in range(20)], "question": ["q"] * 20, "answer": [str(n % 5) for n in range(20)]}
    dataset = load(write(tmp_path / "d.parquet", data))
    shown(dataset)
    assert sum(len(split.images) for split in dataset.splits.values()) == 5


def test_class_numbers_are_read_as_class_names(tmp_path: Path, png: Png) -> None:
    features = {"label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
    data = {"image": [png(n) for n in range(6)], "question": ["q"] * 6, "label": [0, 1, 0, 1, 0, 1]}
    file = write(tmp_path / "d.parquet", data, huggingface=json.dumps({"info": {"features": features}}))
    dataset = load(file, columns={"answer": "label"})
    assert {one.targets[0] for split in dataset.splits.values() for one in split.examples} == {"cat", "dog"}


def test_one_row_group_of_images_is_read_at_a_time(tmp_path: Path, png: Png, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[tuple[int, list[str]]] = []

    class Watched(pq.ParquetFile):  # type: ignore[misc]
        def read_row_group(self, group: int, columns: list[str], **options: Any) -> pa.Table:
            reads.append((group, columns))
            return super().read_row_group(group, columns=columns, **options)

        def read(self, *_: object, **__: object) -> pa.Table:
            pytest.fail("the whole file was read")

    data = columns(png, range(12))
    file = write(tmp_path / "d.parquet", {**data, "split": ["train"] * 8 + ["validation"] * 2 + ["test"] * 2})
    monkeypatch.setattr(parquet.pq, "ParquetFile", Watched)
    dataset = load(file)
    assert reads == [(group, names) for group in range(3) for names in (["split", "text"], ["image"])]
    reads.clear()
    dataset["test"].images[:]  # still held from loading
    assert reads == []
    dataset["train"].images[:]
    assert reads == [(0, ["image"]), (1, ["image"])]


def test_a_rewritten_file_is_read_anew(tmp_path: Path, png: Png) -> None:
    file = write(tmp_path / "d.parquet", columns(png, range(3)))
    shown(load(file))
    write(file, columns(png, range(50, 53)))
    os.utime(file, ns=(1, 1))
    assert sorted(chain.from_iterable(shown(load(file)).values())) == ["50", "51", "52"]


def test_a_truncated_file_is_named(tmp_path: Path, png: Png) -> None:
    file = write(tmp_path / "d.parquet", columns(png, range(3)))
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"d\.parquet: is no complete parquet file"):
        load(file)


def damaged_text_pages(tmp_path: Path, png: Png) -> Path:
    """A file whose second row group has a broken text page; footer and images are whole."""
    file = write(tmp_path / "d.parquet", columns(png, range(12)))
    group = pq.ParquetFile(file).metadata.row_group(1)
    index = next(i for i in range(group.num_columns) if group.column(i).path_in_schema == "text")
    data = bytearray(file.read_bytes())
    start = group.column(index).dictionary_page_offset or group.column(index).data_page_offset
    data[start : start + group.column(index).total_compressed_size] = (
        b"\xff" * group.column(index).total_compressed_size
    )
    file.write_bytes(data)
    return file


def test_a_damaged_row_group_stops_or_is_skipped(tmp_path: Path, png: Png) -> None:
    file = damaged_text_pages(tmp_path, png)
    with pytest.raises(UserError, match="row group 1: cannot be read"):
        load(file)
    dataset = load(file, on_error="skip")
    assert sorted(chain.from_iterable(shown(dataset).values()), key=int) == [str(n) for n in (0, 1, 2, 3, 8, 9, 10, 11)]
    assert len(dataset["train"].skipped) == 1
    assert {one.id for split in dataset.splits.values() for one in split.examples} >= {"d.parquet#8", "d.parquet#11"}


def test_broken_cells_name_their_row(tmp_path: Path, png: Png) -> None:
    data = columns(png, range(6))
    data["image"] = [*data["image"][:4], None, b"junk"]
    file = write(tmp_path / "d.parquet", data)
    with pytest.raises(UserError, match=r"d\.parquet, row 4: image .*row group 1, row 0: is empty"):
        load(file)
    skipped = load(file, on_error="skip")["train"].skipped
    assert [line.split(": ")[0] for line in skipped] == ["d.parquet, row 4", "d.parquet, row 5"]


def test_wrong_columns_are_listed_with_a_mapping_that_works(tmp_path: Path, png: Png) -> None:
    data = columns(png, range(3))
    file = write(tmp_path / "d.parquet", {"img": data["image"], "text": data["text"]})
    with pytest.raises(UserError, match=r"no column for 'image'; it has img, text; .*\{image: img\}"):
        load(file)
    shown(load(file, columns={"image": "img"}))


def test_an_image_column_of_numbers_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "d.parquet", {"image": [1, 2, 3], "text": ["a", "b", "c"]})
    with pytest.raises(UserError, match="image column 'image' holds int64; it must hold encoded bytes"):
        load(file)


def test_shards_with_different_columns_are_refused(tmp_path: Path, png: Png) -> None:
    write(tmp_path / "a.parquet", columns(png, range(3)))
    write(tmp_path / "b.parquet", {**columns(png, range(3)), "more": [1, 2, 3]})
    with pytest.raises(UserError, match=r"b\.parquet: has columns image, text, more, but .*a\.parquet has image, text"):
        load(tmp_path)
