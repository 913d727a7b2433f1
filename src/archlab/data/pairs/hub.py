"""Data sets of the Hugging Face hub, through `datasets` (imported only here, and only when such a source is asked for).

Two ways: `hub:NAME` downloads the data and maps it into memory, `stream:NAME` passes over it once and keeps of each
image only the small square that the encoder reads, for data that fits neither in memory nor on the disk.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import IO, Any

from PIL import Image

from archlab.config import PairsData
from archlab.data.images import BrokenInput, Encoded, FileImage, decode
from archlab.data.pairs.assembly import fingerprint
from archlab.data.pairs.parquet import label_name
from archlab.data.pairs.rows import Problems, Record, split_name
from archlab.errors import UserError


@dataclass(frozen=True, eq=False)
class HubImage:
    """One cell of an image column of a downloaded data set."""

    table: Any
    column: str
    row: int
    name: str

    def read(self) -> bytes:
        return _encoded(self.table[self.row][self.column])


@dataclass(frozen=True, eq=False)
class SpooledImage:
    """A small image that a streaming pass left in a temporary file."""

    spool: IO[bytes]
    offset: int
    size: int
    name: str

    def read(self) -> bytes:
        self.spool.seek(self.offset)
        return self.spool.read(self.size)


Columns = Callable[[Sequence[str]], Mapping[str, str]]
"""Settles the roles, given the columns that the data has."""


def records(
    name: str, resolve: Columns, config: PairsData, image_size: int, problems: Problems, *, stream: bool
) -> tuple[Mapping[str, str], Iterator[Record]]:
    """The roles and the records of a data set.

    Args:
        name: hub id, or `id:configuration`; or a path that `datasets` understands.
        resolve: see `Columns`.
        config: `limit` and `max_pixels` are read here: a stream ends at the limit.
        image_size: side of the squares that a streaming pass keeps, as lossless PNG in a temporary file.

    Raises:
        UserError: `datasets` is missing or cannot load the data.
    """
    splits = load_splits(name, stream)
    features = next(iter(splits.values())).features
    if features is None:
        raise UserError(f"data.source={name}: brings no column types, so it cannot be streamed; use hub:{name}")
    columns = resolve(list(features))
    labels = {column: names for column in features if (names := getattr(features[column], "names", None))}
    return columns, _records(name, splits, columns["image"], labels, config, image_size, problems, stream)


def _records(
    name: str,
    splits: Mapping[str, Any],
    column: str,
    labels: Mapping[str, Sequence[str]],
    config: PairsData,
    image_size: int,
    problems: Problems,
    stream: bool,
) -> Iterator[Record]:
    spool = tempfile.TemporaryFile() if stream else None  # noqa: SIM115 (lives as long as an image refers to it)
    undivided = len(splits) == 1  # whatever its name, for a hub split cannot be renamed
    for split, table in splits.items():
        known = "" if undivided else split_name(split, f"data.source={name}")
        rows: Iterable[Mapping[str, Any]] = table if spool else table.remove_columns(column)
        for row, found in enumerate(itertools.islice(rows, config.limit or None)):
            where = f"{name}, split {split}, row {row}"
            values = {
                key: label_name(value, labels[key]) if key in labels else value
                for key, value in found.items()
                if key != column
            }
            image: Encoded = HubImage(table, column, row, where)
            identity = ""
            if spool:
                try:
                    encoded = _encoded(found[column])
                    image, identity = _spool(encoded, spool, where, image_size, config.max_pixels), fingerprint(encoded)
                except UserError as error:
                    problems.report(known, where, error)
                    continue
            yield Record(f"{split}#{row}", where, values, image, known, identity)


def load_splits(name: str, stream: bool, option: str = "data.source") -> dict[str, Any]:
    """Split -> table, with images left encoded.

    Args:
        name: hub id, or `id:configuration`; or a path that `datasets` understands.
        option: what messages call the option that names the data.

    Raises:
        UserError: `datasets` is missing or cannot load the data.
    """
    try:
        import datasets
    except ImportError:
        raise UserError(f"{option}={name}: hub data needs the package 'datasets'; pip install datasets") from None
    path, _, configuration = name.partition(":")
    try:
        loaded = datasets.load_dataset(path, configuration or None, streaming=stream)
        return {str(split): _undecoded(table, datasets.Image) for split, table in loaded.items()}
    except Exception as error:  # the library raises its own, the hub's, the network's and the builder's errors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{option}={name}: `datasets` cannot load it ({reason}); check the id, log in if it is private, "
            f"or download it and give the folder"
        ) from None


def _undecoded(table: Any, image_type: type) -> Any:
    for column, feature in (table.features or {}).items():
        if isinstance(feature, image_type):
            table = table.cast_column(column, image_type(decode=False))
    return table


def _encoded(cell: Any) -> bytes:
    """The bytes of an image cell: raw, or the struct of `datasets`."""
    if isinstance(cell, Mapping):
        if cell.get("bytes") is None and cell.get("path"):
            return FileImage(cell["path"]).read()
        cell = cell.get("bytes")
    if not isinstance(cell, bytes | None):
        raise BrokenInput(f"holds a {type(cell).__name__}", "the image column must hold encoded images")
    return cell or b""


def _spool(encoded: bytes, spool: IO[bytes], name: str, size: int, max_pixels: int) -> SpooledImage:
    """Keep the decoded square as PNG; a PNG of that size decodes to the same pixels again."""
    square = decode(encoded, size, max_pixels=max_pixels, name=name)
    small = BytesIO()
    Image.fromarray(square).save(small, "PNG")
    offset = spool.seek(0, 2)
    return SpooledImage(spool, offset, spool.write(small.getvalue()), name)
