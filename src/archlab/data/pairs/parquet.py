"""Parquet with image bytes: one file or a folder of shards, the image a binary column or the struct of `datasets`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from archlab.data.images import BrokenInput, Encoded, FileImage
from archlab.data.pairs.rows import Problems, Record, split_of_path
from archlab.errors import UserError


@dataclass(frozen=True, slots=True)
class ParquetImage:
    """One cell of an image column. The row group that was read last is kept, so that reading in order is fast.

    Attributes:
        stamp: modification time of the file; a rewritten file is not mistaken for the old one.
        group, row: row group of the file, row within it.
    """

    path: Path
    column: str
    stamp: int
    group: int
    row: int

    @property
    def name(self) -> str:
        return f"{self.path}, row group {self.group}, row {self.row}"

    def read(self) -> bytes:
        try:
            cell = _image_column(self.path, self.column, self.stamp, self.group)[self.row].as_py()
        except (OSError, pa.ArrowException) as error:
            problem = f"image {self.name}: cannot be read ({_first_line(error)})"
            raise BrokenInput(problem, "download it again") from None
        if isinstance(cell, dict):
            cell = cell["bytes"] if cell["bytes"] is not None else cell.get("path")
        if isinstance(cell, str):
            return FileImage(self.path.parent / cell).read()
        return cell or b""


@lru_cache(maxsize=1)
def _image_column(path: Path, column: str, stamp: int, group: int) -> pa.ChunkedArray:
    return pq.ParquetFile(path).read_row_group(group, columns=[column]).column(column)


def shards(place: Path) -> list[Path]:
    """The parquet files of a folder, in order of their names; or the one file."""
    return sorted(place.rglob("*.parquet")) if place.is_dir() else [place]


def schema(files: Sequence[Path]) -> pa.Schema:
    """The schema that all shards share.

    Raises:
        UserError: a file is no parquet, or has other columns than the first.
    """
    first = None
    for path in files:
        with _open(path) as file:
            found = file.schema_arrow
        first = first or found
        if set(found.names) != set(first.names):
            raise UserError(
                f"{path}: has columns {', '.join(found.names)}, but {files[0]} has {', '.join(first.names)}; "
                f"shards of one data set must have the same columns"
            )
    assert first is not None, "called with the files of `shards`, which are never none"
    return first


def records(
    place: Path, files: Sequence[Path], columns: dict[str, str], problems: Problems, extra: Sequence[str] = ()
) -> Iterator[Record]:
    """One record per row; texts are read one row group at a time, images not at all.

    Args:
        place: the folder or file that the user named; splits come from the shards' names below it.
        columns: role -> column.
        extra: further columns to hand on.

    Raises:
        UserError: the image column holds neither bytes, nor the struct of `datasets`, nor file names.
    """
    texts = sorted({column for role, column in columns.items() if role != "image"} | set(extra))
    labels = class_labels(schema(files), texts)
    for path in files:
        parts = path.relative_to(place).parts if place.is_dir() else (path.name,)
        split, stamp = split_of_path(parts), path.stat().st_mtime_ns
        with _open(path) as file:
            _refuse_other_types(path, file.schema_arrow.field(columns["image"]))
            start = 0
            for group in range(file.num_row_groups):
                try:
                    table = file.read_row_group(group, columns=texts or [file.schema_arrow.names[0]])
                except (OSError, pa.ArrowException) as error:
                    unread = BrokenInput(f"cannot be read ({_first_line(error)})", "download it again")
                    problems.report(split, f"{path}, row group {group}", unread)
                    start += file.metadata.row_group(group).num_rows
                    continue
                for row, values in enumerate(table.to_pylist()):
                    for column, names in labels.items():
                        values[column] = label_name(values[column], names)
                    image: Encoded = ParquetImage(path, columns["image"], stamp, group, row)
                    yield Record(f"{'/'.join(parts)}#{start + row}", f"{path}, row {start + row}", values, image, split)
                start += len(table)


def class_labels(found: pa.Schema, columns: Sequence[str]) -> dict[str, list[str]]:
    """Column -> names of its classes, for columns that `datasets` stored as numbers."""
    features = json.loads((found.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    return {
        column: features[column]["names"]
        for column in columns
        if isinstance(features.get(column), dict) and features[column].get("_type") == "ClassLabel"
    }


def label_name(value: Any, names: Sequence[str]) -> Any:
    """The name of a class number; `datasets` writes -1 where there is none."""
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else None


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: is no complete parquet file ({_first_line(error)}); download it again") from None


def _refuse_other_types(path: Path, field: pa.Field) -> None:
    kind = field.type
    names = {kind.field(i).name for i in range(kind.num_fields)} if pa.types.is_struct(kind) else set()
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_string(kind) or "bytes" in names):
        raise UserError(
            f"{path}: image column {field.name!r} holds {kind}; it must hold encoded bytes (JPEG, PNG), the struct "
            f"{{bytes, path}} or file names; choose another with data.pairs.columns={{image: COLUMN}}"
        )


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
