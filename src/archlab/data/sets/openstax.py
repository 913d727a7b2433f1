"""OpenStax textbooks (CC BY 4.0): figures with the alt texts that their authors wrote for blind readers.

The first sentence is the canonical caption, the full alt text a second surface form of it. `openstax-photo` keeps
photographs, paintings and micrographs. Books are in several splits; `Dataset.notes` counts the captions that repeat.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from xml.etree import ElementTree

from archlab.data.images import FileImage
from archlab.data.pairs.rows import Row
from archlab.data.sets.reading import caption_row, read
from archlab.errors import UserError

FILES = ("openstax_alt_128.parquet",)

_CNXML = "{http://cnx.rice.edu/cnxml}"
_SENTENCE = re.compile(r".+?[.!?](?=\s|$)", re.DOTALL)
_PHOTO = re.compile(r"photo|painting|micrograph", re.IGNORECASE)


def prepared(file: Path) -> Iterator[Row]:
    """Rows of the prepared file, with its splits."""
    return _prepared(file, photos_only=False)


def prepared_photos(file: Path) -> Iterator[Row]:
    """Of these, the rows that the file marks as photographs, paintings or micrographs."""
    return _prepared(file, photos_only=True)


def official(root: Path) -> Iterator[Row]:
    """Rows of cloned `osbooks-*` repositories: the figures of `modules/*/index.cnxml`. They bring no splits."""
    return _official(root)


def official_photos(root: Path) -> Iterable[Row]:
    """Of these, the rows whose alt text says so: fewer than in the prepared file, where the images were judged."""
    return (row for row in _official(root) if any(_PHOTO.search(text) for text in row.targets))


def first_sentence(alt: str) -> str:
    """The alt text up to the first full stop that ends a word, or all of it."""
    match = _SENTENCE.match(alt)
    return match.group() if match else alt


def _prepared(file: Path, photos_only: bool) -> Iterator[Row]:
    for record in read(file, "id", "short", "alt", "photo", "split"):
        values = record.values
        if values["photo"] or not photos_only:
            texts = [values["short"].strip(), values["alt"].strip()]
            yield caption_row(values["id"], record.where, record.image, texts, values["split"])


def _official(root: Path) -> Iterator[Row]:
    modules = sorted(root.rglob("modules/*/index.cnxml"))
    if not modules:
        raise UserError(f"{root}: holds no modules/*/index.cnxml, so it is no OpenStax book; clone osbooks-* there")
    seen = set()
    for path in modules:
        try:
            document = ElementTree.parse(path)
        except (OSError, ElementTree.ParseError) as error:
            raise UserError(f"{path}: is no valid CNXML ({error}); clone the book again") from None
        for media in document.iter(f"{_CNXML}media"):
            alt, image = " ".join(media.get("alt", "").split()), media.find(f"{_CNXML}image")
            if image is None or not alt:
                continue
            file = (path.parent / image.get("src", "")).resolve()
            if file not in seen:  # books show some figures twice
                seen.add(file)
                name = f"{file.parents[1].name}/{file.name}"
                yield caption_row(name, f"{path}, {file.name}", FileImage(file), [first_sentence(alt), alt])
