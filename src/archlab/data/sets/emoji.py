"""Noto emoji (Google, Apache-2.0 / OFL): drawings with their Unicode names and keywords.

There is no official split. It is cut by base emoji: the skin tones of one emoji are near copies and stay together.

Training reads names and keywords, but for one keyword in four, which no training text and no name holds. Test images
are looked for by name ("test"), by keywords that training may have read of other emoji ("test_keywords"), and by
keywords that it never read ("test_held_out_keywords").
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from archlab.data.example import Dataset, Example, Split
from archlab.data.images import FileImage
from archlab.data.pairs.rows import Row, meaning
from archlab.data.sets.reading import CAPTION_QUERY, caption_row, first_folder, read
from archlab.errors import UserError

FILES = ("noto_emoji_96.parquet",)
NAMES = "emoji-test.txt"

KEYWORDS, HELD_OUT = "test_keywords", "test_held_out_keywords"
"""Splits with the images of "test"."""
_HELD_OUT_OF = 4  # every so many keywords

_SKIN_TONES = re.compile("[\U0001f3fb-\U0001f3ff]")
_WORD = re.compile(r"[^\s:,()\u201c\u201d]+")
_VARIATION = "\ufe0f"  # "draw it as an emoji": Noto's file names leave it out
_LINE = re.compile(r"(?P<code>[0-9A-F ]+?)\s*; fully-qualified\s*# \S+ E[\d.]+ (?P<name>.+)")


def prepared(file: Path) -> Iterator[Row]:
    """Rows of the prepared file: name, keywords to train on, and keywords held out; see `by_keywords`."""
    records = list(read(file, "emoji", "name", "keywords"))
    held_out = _held_out([one.values["name"] for one in records], [one.values["keywords"] for one in records])
    for record in records:
        emoji, keywords = record.values["emoji"], record.values["keywords"]
        texts = [
            record.values["name"],
            ", ".join(word for word in keywords if meaning(word) not in held_out),
            ", ".join(word for word in keywords if meaning(word) in held_out),
        ]
        yield Row(
            emoji, record.where, record.image, "caption", "caption", CAPTION_QUERY, texts, group=base(emoji),
            fingerprint=record.fingerprint,
        )  # fmt: skip


def by_keywords(dataset: Dataset) -> Dataset:
    """Takes the held-out keywords out of the texts, and looks for the images of "test" by either kind of them."""

    def told(pick: Callable[[Example], Iterable[str]], split: Split, name: str) -> Split:
        """The split with other texts, without the examples that have none."""
        examples = []
        for one in split.examples:
            if texts := [text for text in dict.fromkeys(pick(one)) if text]:
                examples.append(replace(one, targets=tuple(texts), meaning=meaning(texts[0])))
        digest = hashlib.sha256(f"{split.digest} {name}".encode()).hexdigest()
        return replace(split, name=name, examples=examples, digest=digest)

    test = dataset["test"]
    if all(len(one.targets) == 1 for one in test.examples):  # a source without keywords
        return dataset
    splits = {name: told(lambda one: one.targets[:2], split, name) for name, split in dataset.splits.items()}
    splits |= {
        KEYWORDS: told(lambda one: one.targets[1:2], test, KEYWORDS),
        HELD_OUT: told(lambda one: one.targets[2:], test, HELD_OUT),
    }
    note = (
        f"of {len(test.examples)} test emoji, {len(splits[KEYWORDS].examples)} are also looked for by keywords and "
        f"{len(splits[HELD_OUT].examples)} by keywords that no training text has"
    )
    return replace(dataset, splits=splits, notes=[*dataset.notes, note])


def official(root: Path) -> Iterator[Row]:
    """Rows of the repository: `png/128/emoji_u1f600.png` with the names of Unicode's `emoji-test.txt`.

    Drawings without a name there (single flag letters, old versions) are no emoji and left out.
    """
    images = first_folder(root, (".",), "png/128", "noto-emoji") / "png/128"
    names = _names(root / NAMES)
    for path in sorted(images.glob("emoji_u*.png")):
        emoji = "".join(chr(int(code, 16)) for code in path.stem.removeprefix("emoji_u").split("_"))
        if emoji in names:
            yield caption_row(emoji, str(path), FileImage(path), [names[emoji]], group=base(emoji))


def base(emoji: str) -> str:
    """The emoji without skin tones and variation selectors."""
    return _SKIN_TONES.sub("", emoji).replace(_VARIATION, "")


def _held_out(names: Iterable[str], keywords: Iterable[Sequence[str]]) -> set[str]:
    """One keyword in four, by its own letters, of those that no name and no other keyword has in it."""
    known = {meaning(word) for words in keywords for word in words}
    inside = {part for name in names for part in _parts(name)}
    inside |= {part for word in known for part in _parts(word) if part != word}
    return {
        word for word in known - inside if hashlib.blake2b(word.encode(), digest_size=2).digest()[0] % _HELD_OUT_OF == 0
    }


def _parts(text: str) -> Iterator[str]:
    """Every run of whole words in a text, itself among them."""
    words = _WORD.findall(meaning(text))
    for start in range(len(words)):
        for stop in range(start + 1, len(words) + 1):
            yield " ".join(words[start:stop])


def _names(file: Path) -> dict[str, str]:
    """Emoji (without variation selectors) -> name."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        url = f"https://unicode.org/Public/emoji/latest/{NAMES}"
        raise UserError(f"{file}: cannot be read; download {url} to that place") from None
    found = (match for line in lines if (match := _LINE.match(line)))
    return {
        "".join(chr(int(code, 16)) for code in match["code"].split()).replace(_VARIATION, ""): match["name"]
        for match in found
    }
