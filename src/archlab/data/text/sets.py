"""Named texts and translations, from the prepared folder (`ARCHLAB_DATA`) or from a download of the official source.

`NAME` reads the prepared file, `NAME:PLACE` a download. For characters any text file will do. `data.text.reviews` has
the texts with classes.

- tinyshakespeare: public domain.
- names (makemore, MIT): 32,033 first names of people, one a line; no official splits.
- Multi30k (arXiv 1605.00459): no licence of the texts is stated, so weights trained on them are never shipped.
"""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from archlab.data.sets import ENVIRONMENT
from archlab.errors import UserError

_CHARACTERS = {  # name -> prepared file and official source
    "tinyshakespeare": (
        "text/tinyshakespeare.txt",
        "https://github.com/karpathy/char-rnn (data/tinyshakespeare/input.txt)",
    ),
    "names": ("text/names.txt", "https://github.com/karpathy/makemore (names.txt)"),
}
_MULTI30K = "https://github.com/multi30k/dataset (clone it)"
_TRANSLATION_SPLITS = {  # ours -> that of the prepared file and of the official one
    "train": "train",
    "validation": "val",
    "test_2016_flickr": "test_2016_flickr",
    "test_2017_flickr": "test_2017_flickr",
}


@dataclass(frozen=True)
class Characters:
    """A text to learn from, and the text to validate on.

    Attributes:
        note: what a reader of the results must know of the data.
    """

    train: str
    validation: str
    note: str = ""

    def digest(self) -> str:
        """Hash of all of it."""
        return digest([self.train + self.validation])


@dataclass(frozen=True)
class Bitext:
    """Sentences and their translations, in the same order."""

    source: list[str]
    target: list[str]

    def digest(self) -> str:
        """Hash of all of it."""
        return digest([*self.source, *self.target])


def digest(texts: Sequence[str]) -> str:
    """Hash of texts in their order."""
    return hashlib.sha256("\x00".join(texts).encode()).hexdigest()


def load_characters(source: str, validation_fraction: float, seed: int) -> Characters:
    """The text that `source` names, cut into a part to train on and the rest.

    - `tinyshakespeare`, `tinyshakespeare:FILE`, or the path of a text file: the end is held out.
    - `names`, `names:FILE`: one name a line. The file ends in rare names and repeats some, so names are held out by
      lot, equal ones together, and both parts are put in a random order.

    Args:
        validation_fraction: share of the characters, or of the different names, that is held out.
        seed: of the lot and the order of names.

    Raises:
        UserError: there is none, it is not UTF-8, or it is empty.
    """
    name, _, place = source.partition(":")
    if name in _CHARACTERS:
        file, official = _CHARACTERS[name]
        path = Path(place).expanduser() if place else prepared_files(name, [file], official)[0]
    else:
        path = Path(source).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError(
            f"source={source!r}: {path} cannot be read ({reason}); give {' or '.join(map(repr, _CHARACTERS))}, which "
            f"may be followed by :FILE, or a text file"
        ) from None
    if not text:
        raise UserError(f"source={source!r}: {path} is empty; give a text to learn from")
    return _cut_names(text, validation_fraction, seed) if name == "names" else cut_end(text, validation_fraction)


def cut_end(text: str, fraction: float) -> Characters:
    """The text with this share of it, at its end, held out."""
    cut = int((1 - fraction) * len(text))
    return Characters(text[:cut], text[cut:])


def held_out(texts: Sequence[str], fraction: float, seed: int) -> set[str]:
    """A random share of the different texts: equal ones are held out together."""
    distinct = sorted(set(texts))
    drawn = np.random.default_rng([seed, len(distinct)]).random(len(distinct)) < fraction
    return {text for text, out in zip(distinct, drawn, strict=True) if out}


def _cut_names(text: str, fraction: float, seed: int) -> Characters:
    names = [name for line in text.split("\n") if (name := line.strip())]
    chosen = held_out(names, fraction, seed)
    order = np.random.default_rng([seed, len(names), 1]).permutation(len(names))
    train, validation = (
        "".join(f"{names[i]}\n" for i in order if (names[i] in chosen) == out) for out in (False, True)
    )
    repeated = len(names) - len(set(names))
    note = f"{repeated} of {len(names)} names repeat an earlier one; equal names are on one side of the cut."
    return Characters(train, validation, note)


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
        rows = read_rows(prepared_files(name, ["multi30k_en_fr_de.parquet"], _MULTI30K)[0], ("split", *languages))
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


def prepared_files(name: str, files: Sequence[str], official: str) -> list[Path]:
    """Files below the prepared folder.

    Args:
        name: of the set, for messages.
        official: its official source, and how to get it.

    Raises:
        UserError: the folder is not set, or lacks one of them.
    """
    way = f"source={name}:PLACE reads a download from {official}"
    folder = os.environ.get(ENVIRONMENT, "")
    if not folder:
        raise UserError(f"source={name}: {ENVIRONMENT} (a folder with {files[0]}) is not set; {way}")
    paths = [Path(folder) / file for file in files]
    for path in paths:
        if not path.is_file():
            raise UserError(f"source={name}: {ENVIRONMENT} names a folder without {path.name}; {way}")
    return paths


def read_rows(file: Path, columns: Sequence[str]) -> list[Mapping[str, Any]]:
    """Rows of a prepared parquet file.

    Raises:
        UserError: it is damaged.
    """
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
