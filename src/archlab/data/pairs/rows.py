"""What readers of image-text data hand on: `Record`, a row as it was found, and `Row`, a row with its roles settled."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from archlab.data.images import BrokenInput, Encoded
from archlab.errors import UserError
from archlab.rules import is_unicode

CLASS_QUESTION = "what is this"
"""The query of data that has a class name per image."""


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a source.

    Attributes:
        id: unique within its split, unless a column says otherwise.
        where: file and line, for messages.
        values: by the names of the source.
        image: where the image lies.
        split: as the folder or file name says; empty where they do not say.
        fingerprint: hash of the image's bytes, where the reader already knows it.
    """

    id: str
    where: str
    values: Mapping[str, Any]
    image: Encoded
    split: str = ""
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One example before its split is settled; see `Example` and `Record` for the fields.

    Attributes:
        meaning: of the targets, where more is known of it than the words of the canonical one; see `meaning_of`.
    """

    id: str
    where: str
    image: Encoded
    task: Literal["vqa", "caption"]
    kind: str
    query: str
    targets: Sequence[str]
    split: str = ""
    group: str = ""
    fingerprint: str = ""
    meaning: str = ""


@dataclass
class Problems:
    """Collects broken inputs, or stops at the first one.

    Attributes:
        skip: leave broken inputs out instead of stopping.
        root: folder that the user named; in `skipped`, files are named as they lie below it.
        skipped: (split or "", line) of each input left out; the line says which, and what is wrong with it.
    """

    skip: bool
    root: Path | None = None
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def report(self, split: str, where: str, error: UserError) -> None:
        """Keep what is wrong with an input if broken inputs are skipped.

        Args:
            where: file and line of the input.

        Raises:
            UserError: place and error, if they are not.
        """
        if not self.skip:
            raise UserError(f"{where}: {error}")
        problem = error.problem if isinstance(error, BrokenInput) else str(error)
        line = f"{where}: {problem.removeprefix(f'image {where}: ')}"
        if self.root is not None:
            line = re.sub(rf"(?<!\S){re.escape(f'{self.root}{os.sep}')}", "", line)
        self.skipped.append((split, line))


def to_rows(records: Iterable[Record], columns: Mapping[str, str], query: str, problems: Problems) -> Iterator[Row]:
    """Settle the roles of each record: a caption where it has a text, a question where it has an answer, or both.

    Args:
        columns: role -> column, as `columns.resolve` found them.
        query: of the captions.
        problems: told about records without any usable text.
    """
    for record in records:
        try:
            yield from _rows_of(record, columns, query)
        except UserError as error:
            problems.report(record.split, record.where, error)


def _rows_of(record: Record, columns: Mapping[str, str], query: str) -> Iterator[Row]:
    def texts(role: str) -> list[str]:
        column = columns.get(role, "")
        return clean(record.values.get(column), column)

    def text(role: str) -> str:
        return next(iter(texts(role)), "")

    said = text("split")
    split = split_name(said, f"column {columns['split']!r}") if said else record.split
    name = text("id") or record.id
    captions, question, answers = texts("text"), text("question"), texts("answer")
    if bool(question) != bool(answers):
        missing = "question" if answers else "answer"
        raise BrokenInput(f"column {columns[missing]!r} is empty", "give the question and its answer")
    if not captions and not answers:
        empty = ", ".join(repr(columns[role]) for role in ("text", "question", "answer") if role in columns)
        raise BrokenInput(f"nothing is written in {empty}", "write a text")
    group, print_ = text("group"), record.fingerprint
    if captions:
        other = f"{name}:caption" if answers else name
        yield Row(other, record.where, record.image, "caption", "caption", query, captions, split, group, print_)
    if answers:
        kind = text("kind") or ("yes/no" if meaning(answers[0]) in ("yes", "no") else "answer")
        yield Row(name, record.where, record.image, "vqa", kind, question, answers, split, group, print_)


def clean(value: object, column: str) -> list[str]:
    """The texts of one cell, stripped; a list of strings is several surface forms. Empty ones are left out.

    Raises:
        UserError: the cell holds something else, or text that is no valid Unicode.
    """
    if value is None:
        return []
    values = value if isinstance(value, list | tuple) else [value]
    result = []
    for one in values:
        if isinstance(one, bool) or not isinstance(one, str | int | float):
            raise BrokenInput(f"column {column!r} holds a {type(one).__name__}", "it must be text")
        text = str(one).strip()
        if not is_unicode(text):
            raise BrokenInput(f"column {column!r} holds half a surrogate pair", "write Unicode")
        if text:
            result.append(text)
    return result


def meaning(text: str) -> str:
    """Meaning id of a text of unknown origin: lower case, single spaces. Nothing cleverer is known about it."""
    return " ".join(text.lower().split())


def meaning_of(row: Row) -> str:
    """Meaning id of a row's targets."""
    return row.meaning or meaning(row.targets[0])


def class_name(name: str) -> str:
    """Label of a class as words: "AnnualCrop" and "Annual_Crop" are "annual crop"."""
    return " ".join(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).replace("_", " ").lower().split())


_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


def split_name(name: str, where: str) -> str:
    """The standard name of a split; named test splits ("test_2016") keep theirs.

    Raises:
        UserError: the name says neither training, validation nor test.
    """
    lower = name.lower()
    if lower.startswith("test_"):
        return lower
    if lower not in _SPLITS:
        raise UserError(f"{where}: split {name!r} is unknown; it must be train, validation, test or test_NAME")
    return _SPLITS[lower]


def split_of_path(parts: Sequence[str]) -> str:
    """The split that a folder ("validation/") or a shard ("train-00000-of-00002.parquet") is named after, or ""."""
    for part in parts:
        head = re.split(r"[-_.]", part.lower(), maxsplit=1)[0]
        if head in _SPLITS:
            return _SPLITS[head]
    return ""
