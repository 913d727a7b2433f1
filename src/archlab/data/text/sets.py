"""Named text sets, each from the prepared folder (`ARCHLAB_DATA`) or from a download of its official source.

`NAME` reads the prepared file, `NAME:PLACE` a download. For characters any text file will do.
"""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from archlab.data.sets import ENVIRONMENT
from archlab.errors import UserError

_SHAKESPEARE = "https://github.com/karpathy/char-rnn (data/tinyshakespeare/input.txt)"
_MULTI30K = "https://github.com/multi30k/dataset (clone it)"
_IMDB = "https://ai.stanford.edu/~amaas/data/sentiment (unpack aclImdb_v1.tar.gz)"
_TRANSLATION_SPLITS = {  # ours -> that of the prepared file and of the official one
    "train": "train",
    "validation": "val",
    "test_2016_flickr": "test_2016_flickr",
    "test_2017_flickr": "test_2017_flickr",
}


@dataclass(frozen=True)
class Bitext:
    """Sentences and their translations, in the same order."""

    source: list[str]
    target: list[str]

    def digest(self) -> str:
        """Hash of all of it."""
        return digest([*self.source, *self.target])


@dataclass(frozen=True)
class Reviews:
    """Texts and their classes, 0 (negative) or 1 (positive)."""

    texts: list[str]
    labels: list[int]

    def digest(self) -> str:
        """Hash of all of it."""
        return digest([*self.texts, *map(str, self.labels)])


def digest(texts: Sequence[str]) -> str:
    """Hash of texts in their order."""
    return hashlib.sha256("\x00".join(texts).encode()).hexdigest()


def load_characters(source: str) -> str:
    """The text that `source` names: `tinyshakespeare`, `tinyshakespeare:FILE`, or the path of a text file.

    Raises:
        UserError: there is none, it is not UTF-8, or it is empty.
    """
    name, _, place = source.partition(":")
    if name == "tinyshakespeare":
        path = Path(place).expanduser() if place else _prepared(name, ["text/tinyshakespeare.txt"], _SHAKESPEARE)[0]
    else:
        path = Path(source).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError(
            f"source={source!r}: {path} cannot be read ({reason}); give 'tinyshakespeare' or a text file"
        ) from None
    if not text:
        raise UserError(f"source={source!r}: {path} is empty; give a text to learn from")
    return text


def load_translation(source: str, languages: Sequence[str]) -> dict[str, Bitext]:
    """Splits of `multi30k` or `multi30k:FOLDER`, a clone of its repository.

    Args:
        languages: from, to; each en, fr or de.

    Raises:
        UserError: the set is unknown, or not where it should be, or not in these languages.
    """
    name, _, place = source.partition(":")
    if name != "multi30k":
        raise UserError(f"source={source!r}: no such set of translations; known is multi30k")
    for language in languages:
        if language not in ("en", "fr", "de"):
            raise UserError(f"languages={list(languages)}: {name} has en, fr and de, not {language!r}")
    if place:
        read = {
            split: [_lines(Path(place).expanduser() / f"data/task1/raw/{theirs}.{one}.gz") for one in languages]
            for split, theirs in _TRANSLATION_SPLITS.items()
        }
    else:
        rows = _rows(_prepared(name, ["multi30k_en_fr_de.parquet"], _MULTI30K)[0], ("split", *languages))
        read = {
            split: [[row[language] for row in rows if row["split"] == theirs] for language in languages]
            for split, theirs in _TRANSLATION_SPLITS.items()
        }
    for split, (sources, targets) in read.items():
        if not sources or len(sources) != len(targets):
            raise UserError(
                f"source={source!r}: split {split} has {len(sources)} and {len(targets)} sentences; {_MULTI30K}"
            )
    return {split: Bitext(sources, targets) for split, (sources, targets) in read.items()}


def load_reviews(source: str) -> dict[str, Reviews]:
    """Splits train and test of `imdb` or `imdb:FOLDER`, the unpacked `aclImdb`.

    Raises:
        UserError: the set is unknown, or not where it should be.
    """
    name, _, place = source.partition(":")
    if name != "imdb":
        raise UserError(f"source={source!r}: no such set of reviews; known is imdb")
    if place:
        return {split: _folder_of_reviews(Path(place).expanduser() / split) for split in ("train", "test")}
    files = _prepared(name, ["imdb_train25k.parquet", "imdb_test5k.parquet"], _IMDB)
    read = {}
    for split, file in zip(("train", "test"), files, strict=True):
        rows = _rows(file, ("text", "label"))
        read[split] = Reviews([row["text"] for row in rows], [row["label"] for row in rows])
    return read


def _prepared(name: str, files: Sequence[str], official: str) -> list[Path]:
    way = f"source={name}:PLACE reads a download from {official}"
    folder = os.environ.get(ENVIRONMENT, "")
    if not folder:
        raise UserError(f"source={name}: {ENVIRONMENT} (a folder with {files[0]}) is not set; {way}")
    paths = [Path(folder) / file for file in files]
    for path in paths:
        if not path.is_file():
            raise UserError(f"source={name}: {ENVIRONMENT} names a folder without {path.name}; {way}")
    return paths


def _rows(file: Path, columns: Sequence[str]) -> list[Mapping[str, Any]]:
    try:
        rows: list[Mapping[str, Any]] = pq.read_table(file, columns=list(columns)).to_pylist()
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({str(error).splitlines()[0]}); restore it") from None
    return rows


def _lines(path: Path) -> list[str]:
    try:
        return gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError, EOFError) as error:
        reason = error.strerror or "damaged" if isinstance(error, OSError) else "damaged"
        raise UserError(f"{path}: cannot be read ({reason}); the official source is {_MULTI30K}") from None


def _folder_of_reviews(folder: Path) -> Reviews:
    texts, labels = [], []
    for label, name in enumerate(("neg", "pos")):
        files = sorted((folder / name).glob("*.txt"))
        if not files:
            raise UserError(f"{folder / name}: holds no reviews; the official source is {_IMDB}")
        texts += [file.read_text(encoding="utf-8") for file in files]
        labels += [label] * len(files)
    return Reviews(texts, labels)
