"""Noto emoji (Google, Apache-2.0 / OFL): drawings with their Unicode names.

There is no official split. It is cut by base emoji: the skin tones of one emoji are near copies and stay together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from archlab.data.images import FileImage
from archlab.data.pairs.rows import Row
from archlab.data.sets.reading import caption_row, first_folder, read
from archlab.errors import UserError

FILES = ("noto_emoji_96.parquet",)
NAMES = "emoji-test.txt"

_SKIN_TONES = re.compile("[\U0001f3fb-\U0001f3ff]")
_VARIATION = "\ufe0f"  # "draw it as an emoji": Noto's file names leave it out
_LINE = re.compile(r"(?P<code>[0-9A-F ]+?)\s*; fully-qualified\s*# \S+ E[\d.]+ (?P<name>.+)")


def prepared(file: Path) -> Iterator[Row]:
    """Rows of the prepared file."""
    for record in read(file, "emoji", "name"):
        emoji = record.values["emoji"]
        yield caption_row(emoji, record.where, record.image, [record.values["name"]], group=base(emoji))


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
