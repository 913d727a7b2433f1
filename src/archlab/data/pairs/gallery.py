"""The images of a source without any need for text: a folder, described or not, parquet, or WebDataset shards.

Each image comes once, whatever is said of it; what is said stands beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

from archlab.data.images import SUFFIXES, Encoded, FileImage
from archlab.data.pairs import folder, parquet, webdataset
from archlab.data.pairs.rows import Problems, Record
from archlab.errors import UserError

Said: TypeAlias = dict[str, str | int | float | bool | list[str | int | float | bool]]


@dataclass(frozen=True, slots=True)
class Picture:
    """One image.

    Attributes:
        id: unique in its source: the path below the folder, or file and row.
        image: where it lies.
        said: the columns of its rows, where their values are texts, numbers, truth values or lists of these; "folder"
            for a file in a sub-folder, "split" where a shard is named after one.
    """

    id: str
    image: Encoded
    said: Said


def pictures(place: Path, problems: Problems, *, image_column: str | None = None) -> list[Picture]:
    """All images of a folder or file.

    Args:
        place: a folder of images, with sub-folders and `metadata.jsonl` or without; parquet; WebDataset tar.
        problems: told about lines and rows that cannot be read.
        image_column: of `metadata.jsonl` ("file_name") or parquet ("image"), where it has another name.

    Raises:
        UserError: the place is missing or holds no image.
    """
    if not place.exists():
        raise UserError(f"{place}: no such file or folder; correct the path")
    found = list(_read(place, problems, image_column))
    if not found:
        first = f"; the first problem: {problems.skipped[0][1]}" if problems.skipped else ""
        raise UserError(f"{place}: holds no image of the kinds {', '.join(sorted(SUFFIXES))}{first}")
    return found


def _read(place: Path, problems: Problems, image_column: str | None) -> Iterator[Picture]:
    if files := _files(place, "parquet"):
        yield from _rows(place, files, image_column or "image", problems)
    elif files := _files(place, "tar"):
        for record in webdataset.records(place, files, problems):
            yield Picture(record.id, record.image, _said(record, {"image"}))
    elif place.is_file():
        if place.suffix.lower() in SUFFIXES:
            yield Picture(place.name, FileImage(place), {})
    else:
        yield from _folder(place, image_column or "file_name", problems)


def _files(place: Path, ending: str) -> list[Path]:
    if place.is_file():
        return [place] if place.suffix == f".{ending}" else []
    return sorted(place.rglob(f"*.{ending}"))


def _rows(place: Path, files: list[Path], image_column: str, problems: Problems) -> Iterator[Picture]:
    names = parquet.schema(files).names
    if image_column not in names:
        raise UserError(
            f"{place}: has no column {image_column!r}, only {', '.join(names)}; name it with --image-column"
        )
    others = [name for name in names if name != image_column]
    for record in parquet.records(place, files, {"image": image_column}, problems, others):
        yield Picture(record.id, record.image, _said(record, {image_column}))


def _folder(place: Path, image_column: str, problems: Problems) -> Iterator[Picture]:
    described: dict[Path, list[Record]] = {}
    for record in folder.records(place, folder.read_lines(place, problems), image_column, problems):
        assert isinstance(record.image, FileImage)
        described.setdefault(record.image.path, []).append(record)
    there = {path for path in place.rglob("*") if path.suffix.lower() in SUFFIXES and not _hidden(path, place)}
    for path in sorted(there | described.keys()):
        relative = path.relative_to(place)
        said: Said = {} if len(relative.parts) == 1 else {"folder": relative.parent.as_posix()}
        yield Picture(relative.as_posix(), FileImage(path), said | _merged(described.get(path, []), {image_column}))


def _hidden(path: Path, place: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(place).parts)


def _merged(records: Iterable[Record], but: set[str]) -> Said:
    """What several rows say of one image: each column with its different values."""
    rows = [_said(record, but) for record in records]
    merged: Said = {}
    for name in dict.fromkeys(chain.from_iterable(rows)):
        values = [row[name] for row in rows if name in row]
        items = list(dict.fromkeys(chain.from_iterable(one if isinstance(one, list) else [one] for one in values)))
        merged[name] = items if len(items) > 1 or isinstance(values[0], list) else items[0]
    return merged


def _said(record: Record, but: set[str]) -> Said:
    said: Said = {"split": record.split} if record.split else {}
    return said | {
        name: value for name, value in _plain(record.values).items() if name not in but and not set(name) & set('"\\')
    }


def _plain(values: Mapping[str, Any]) -> Said:
    plain: Said = {}
    for name, value in values.items():
        items = [one for one in (value if isinstance(value, list | tuple) else [value]) if _usable(one)]
        if isinstance(value, list | tuple):
            plain[name] = items
        elif items:
            plain[name] = items[0]
    return plain


def _usable(value: object) -> bool:
    if isinstance(value, str):
        return value.isprintable() or value.encode(errors="ignore").decode() == value
    return isinstance(value, bool) or (isinstance(value, int | float) and math.isfinite(value) and abs(value) <= 2**53)
