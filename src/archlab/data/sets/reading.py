"""What the readers of named sets share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from archlab.config import PairsData
from archlab.data.images import Encoded
from archlab.data.pairs import hub, parquet
from archlab.data.pairs.columns import resolve
from archlab.data.pairs.rows import CLASS_QUESTION, Problems, Record, Row, class_name, meaning, split_name, to_rows
from archlab.errors import UserError

CAPTION_QUERY = PairsData.query
"""Captions of named sets are asked for by the default query."""


def read(file: Path, *columns: str) -> Iterator[Record]:
    """Records of a prepared parquet file: its column `image`, and the texts in `columns`."""
    lacking = sorted({"image", *columns} - set(parquet.schema([file]).names))
    if lacking:
        raise UserError(f"{file}: has no column {lacking[0]!r}; it is not the prepared file of that name")
    return parquet.records(file, [file], {"image": "image"}, Problems(skip=False), extra=columns)


def table(file: Path) -> list[dict[str, str]]:
    """All rows of a prepared parquet file without images."""
    parquet.schema([file])  # one line instead of a traceback where the file is damaged
    rows: list[dict[str, str]] = pq.read_table(file).to_pylist()
    return rows


def read_json(file: Path) -> list[Any]:
    """A JSON file that holds a list.

    Raises:
        UserError: it does not.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({error}); download it again") from None
    if not isinstance(content, list):
        raise UserError(f"{file}: holds a {type(content).__name__}, the official file a list; download it again")
    return content


def class_row(record: Record, label: str, split: str, *, name: str = "", group: str = "") -> Row:
    """A question of kind "class" whose answer is the class's name."""
    known = split_name(split, record.where) if split else ""
    return Row(
        name or record.id, record.where, record.image, "vqa", "class", CLASS_QUESTION, [class_name(label)], known, group
    )


def caption_row(name: str, where: str, image: Encoded, texts: Iterable[str], split: str = "", group: str = "") -> Row:
    """A caption; `texts` are its surface forms, the canonical one first, and repeated ones are dropped."""
    known = split_name(split, where) if split else ""
    return Row(name, where, image, "caption", "caption", CAPTION_QUERY, list(dict.fromkeys(texts)), known, group)


def with_captions(rows: Iterable[Row], templates: Sequence[str]) -> Iterator[Row]:
    """Every question of kind "class", and a caption of the same image that names its class in several ways.

    All forms mean the class, as the answer to the question does: a caption of the same class is never a wrong one.

    Args:
        templates: of the captions, with {} where the name of the class goes; the canonical one first.
    """
    for row in rows:
        label = row.targets[0]
        yield row
        yield replace(
            row, id=f"{row.id}:caption", task="caption", kind="caption", query=CAPTION_QUERY,
            targets=[template.format(label) for template in templates], meaning=meaning(label),
        )  # fmt: skip


def hub_rows(
    name: str, columns: Mapping[str, str], config: PairsData, image_size: int, problems: Problems
) -> Iterator[Row]:
    """Rows of a hub copy. Where no column holds a question, the answer is the name of a class."""
    if "question" in columns:
        settled, records = hub.records(
            name, partial(resolve, mapping=columns, place=name), config, image_size, problems, stream=False
        )
        yield from to_rows(records, settled, config.query, problems)
        return
    label = columns["answer"]
    settle = partial(_present, name, columns)
    _, records = hub.records(name, settle, config, image_size, problems, stream=False)
    for record in records:
        yield replace(class_row(record, str(record.values[label]), ""), split=record.split)


def _present(name: str, columns: Mapping[str, str], found: Iterable[str]) -> Mapping[str, str]:
    found = list(found)
    for column in columns.values():
        if column not in found:
            raise UserError(f"{name}: has no column {column!r}, it has {', '.join(found)}; the hub's copy has changed")
    return columns


def first_folder(root: Path, candidates: Iterable[str], holds: str, what: str) -> Path:
    """The first of `root/candidate` that holds the file or folder `holds`.

    Raises:
        UserError: none does.
    """
    for candidate in candidates:
        if (root / candidate / holds).exists():
            return root / candidate
    raise UserError(f"{root}: is no download of {what}, it holds no {holds}; give the folder that does")
