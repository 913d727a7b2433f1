"""A folder of images: described by `metadata.jsonl`, or with one sub-folder per class."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from archlab.data import clips
from archlab.data.images import SUFFIXES, BrokenInput, FileImage
from archlab.data.pairs.rows import CLASS_QUESTION, Problems, Record, Row, class_name, split_of_path
from archlab.errors import UserError

METADATA = "metadata.jsonl"
CLIP_SUFFIXES = SUFFIXES | clips.SUFFIXES
EXAMPLE_LINE = '{"file_name": "cat.jpg", "text": "a cat on a mat"}'


def metadata_files(folder: Path) -> list[Path]:
    """`metadata.jsonl` of the folder itself and of its direct sub-folders (one per split)."""
    return [path for path in (folder / METADATA, *sorted(folder.glob(f"*/{METADATA}"))) if path.is_file()]


def read_lines(folder: Path, problems: Problems) -> list[tuple[Path, int, dict[str, Any]]]:
    """All lines of the metadata files as (file, line number, values); lines that are no JSON object are problems."""
    lines = []
    for path in metadata_files(folder):
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                if not raw.strip():
                    continue
                try:
                    lines.append((path, number, _parse(raw, first=number == 1)))
                except ValueError as error:
                    broken = BrokenInput(str(error), f"write one object like {EXAMPLE_LINE}")
                    problems.report(_split_of(folder, path.parent), f"{path}, line {number}", broken)
    return lines


def _parse(raw: bytes, first: bool) -> dict[str, Any]:
    try:
        values = json.loads(raw.decode("utf-8-sig" if first else "utf-8"))
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not valid JSON ({error})") from None
    if not isinstance(values, dict):
        raise ValueError(f"holds a {type(values).__name__}")
    return values


def records(
    folder: Path, lines: list[tuple[Path, int, dict[str, Any]]], image_column: str, problems: Problems
) -> Iterator[Record]:
    """One record per line. File names are relative to the metadata file, as in the `imagefolder` of `datasets`."""
    uses: dict[Path, int] = {}
    for path, number, values in lines:
        where = f"{path}, line {number}"
        name = values.get(image_column)
        split = _split_of(folder, path.parent)
        if not isinstance(name, str) or not PurePosixPath(name).name:
            nameless = BrokenInput(f"{image_column!r} names no file", "give the name of an image")
            problems.report(split, where, nameless)
            continue
        relative = PurePosixPath(os.path.normpath(name.replace("\\", "/")))
        if relative.is_absolute() or ".." in relative.parts:
            problems.report(split, where, BrokenInput(f"image {name!r} lies outside the folder", "move it there"))
            continue
        image = path.parent / relative
        uses[image] = uses.get(image, 0) + 1
        identity = f"{image.relative_to(folder).as_posix()}#{uses[image]}"
        yield Record(identity, where, values, FileImage(image), _split_of(folder, image.parent))


def class_rows(folder: Path, suffixes: frozenset[str] = SUFFIXES) -> Iterator[Row]:
    """Rows of `CLASS/image.jpg` or `SPLIT/CLASS/image.jpg`: a question of kind "class", its answer the class's name."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in suffixes:
            relative = path.relative_to(folder)
            if len(relative.parts) > 1:
                split = split_of_path(relative.parts[:-2])
                label = class_name(relative.parts[-2])
                image = FileImage(path)
                yield Row(relative.as_posix(), str(path), image, "vqa", "class", CLASS_QUESTION, [label], split)


def holds_classes(folder: Path, suffixes: frozenset[str] = SUFFIXES) -> bool:
    """Whether at least two sub-folders hold images; a single one ("images/") is no set of classes."""
    return len({row.targets[0] for row in class_rows(folder, suffixes)}) > 1


def refuse(folder: Path) -> UserError:
    """What to say of a folder that none of the readers understands."""
    if holds_classes(folder, CLIP_SUFFIXES):
        return UserError(f"{folder}: holds clips; say how many frames of each are looked at, data.frames=8")
    return UserError(
        f"{folder}: holds no {METADATA}, parquet, tar or class sub-folders; describe its images in "
        f"{folder / METADATA}, one line each like {EXAMPLE_LINE}"
    )


def _split_of(folder: Path, inner: Path) -> str:
    return split_of_path(inner.relative_to(folder).parts)
