"""WebDataset shards: uncompressed tar files in which members of one name and different endings are one sample."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from archlab.data.images import SUFFIXES, BrokenInput, FileImage
from archlab.data.pairs.rows import Problems, Record, split_of_path
from archlab.errors import UserError

DEFAULTS = {"text": "txt"}
"""Names by which the format calls a role."""


def shards(place: Path) -> list[Path]:
    """The tar files of a folder, in order of their names; or the one file."""
    return sorted(place.rglob("*.tar")) if place.is_dir() else [place]


def records(place: Path, files: Sequence[Path], problems: Problems) -> Iterator[Record]:
    """One record per sample. Its values are the text members by their endings, and the keys of the json member.

    Images are not read: a record remembers where in the tar its image lies.

    Raises:
        UserError: a file is no uncompressed tar, or ends too early.
    """
    for path in files:
        parts = path.relative_to(place).parts if place.is_dir() else (path.name,)
        split = split_of_path(parts)
        for key, texts, image in _samples(path):
            where = f"{path}, sample {key}"
            try:
                values = _values(texts)
            except ValueError as error:
                problems.report(split, where, BrokenInput(f"its text is not valid ({error})", "rewrite it in UTF-8"))
                continue
            if image is None:
                problems.report(split, where, BrokenInput("has no image", f"add {key}.jpg"))
                continue
            yield Record(f"{'/'.join(parts)}/{key}", where, {**values, "image": image.name}, image, split)


def _samples(path: Path) -> Iterator[tuple[str, dict[str, bytes], FileImage | None]]:
    """(name, text members by ending, image) of each run of members that share a name."""
    key, texts, image = "", dict[str, bytes](), None
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                folder, _, file_name = member.name.rpartition("/")
                stem, _, ending = file_name.partition(".")
                stem = f"{folder}/{stem}" if folder else stem
                if stem != key:
                    if key:
                        yield key, texts, image
                    key, texts, image = stem, {}, None
                ending = ending.lower()
                if f".{ending}" in SUFFIXES:
                    image = FileImage(path, member.name, member.offset_data, member.size)
                elif ending in ("txt", "json"):
                    content = tar.extractfile(member)
                    assert content is not None, "a regular file has content"
                    texts[ending] = content.read()
            with path.open("rb") as file:  # tarfile takes a file that ends inside a header for complete
                file.seek(tar.offset)
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise tarfile.ReadError("the end mark is missing")
    except (OSError, tarfile.TarError) as error:
        raise UserError(f"{path}: is no complete, uncompressed tar file ({error}); download it again") from None
    if key:
        yield key, texts, image


def _values(texts: dict[str, bytes]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for ending, content in texts.items():
        text = content.decode()
        if ending == "txt":
            values["txt"] = text
            continue
        parsed = json.loads(text)
        if not isinstance(parsed, dict):
            raise ValueError(f"the json holds a {type(parsed).__name__} instead of an object")
        values |= parsed
    return values
