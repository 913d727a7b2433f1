"""Clothing photos (Alexey Grigorev, CC0). The prepared split is by contributor, so that nobody is in two splits."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from archlab.data.images import FileImage
from archlab.data.pairs.folder import class_rows
from archlab.data.pairs.rows import Record, Row
from archlab.data.sets.reading import class_row, first_folder, read
from archlab.errors import UserError

FILES = ("clothing_cc0_128.parquet",)
TEMPLATES = ("a photo of clothing: {}", "something to wear: {}", "this picture shows {}", "{}, photographed")
"""Surface forms of a caption."""
NO_CLASS = frozenset({"Not sure", "Other", "Skip"})
"""Labels of the full set that name no piece of clothing."""


def prepared(file: Path) -> Iterator[Row]:
    """Rows of the prepared file, with its splits."""
    for record in read(file, "label", "id", "split"):
        yield class_row(record, record.values["label"], record.values["split"], name=record.values["id"])


def official(root: Path) -> Iterator[Row]:
    """Rows of `clothing-dataset-small` (SPLIT/CLASS/ID.jpg), or of the full set (`images.csv`), cut by contributor."""
    if not (root / "images.csv").is_file():
        return class_rows(first_folder(root, (".",), "train", "clothing-dataset-small"))
    return _full(root)


def _full(root: Path) -> Iterator[Row]:
    with (root / "images.csv").open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            where = f"{root / 'images.csv'}, line {number}"
            if not {"image", "sender_id", "label"} <= row.keys():
                raise UserError(f"{where}: has columns {', '.join(row)}; the official ones are image, sender_id, label")
            if row["label"] not in NO_CLASS:
                record = Record(row["image"], where, row, FileImage(root / "images" / f"{row['image']}.jpg"))
                yield class_row(record, row["label"], "", group=row["sender_id"])
