"""Encoded images to uint8 RGB squares: checked before they are decoded, decoded only when asked for.

An image is scaled to fit the square and padded with white: nothing is cut off, because a caption or a question may be
about any part of the picture, and nothing is stretched. Transparency is laid over white too.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

from archlab.errors import UserError

# How many pixels are too many, `max_pixels` says. Ignored for good: `warnings.catch_warnings` is for a single thread.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)

DECODING = "fit-white-bicubic-1"
"""Name of the rule by which pixels are made; part of every digest, so that a changed rule is never a stale cache."""

_SKIP = "or leave such rows out with data.pairs.on_error=skip"

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM")  # no EPS: Pillow would start Ghostscript
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"})

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BrokenInput(UserError):
    """One input of many that cannot be used.

    Args:
        problem: what is wrong with it.
        remedy: what to do about it; leaving such inputs out is another way, and the message says so.
        option: of the data's configuration, which is a third.

    Attributes:
        problem: for the list of what was left out, where no remedy is wanted.
        remedy: for one input that is asked about by itself; see `by_itself`.
    """

    def __init__(self, problem: str, remedy: str, option: str = "") -> None:
        super().__init__(f"{problem}; {', '.join(filter(None, (remedy, option, _SKIP)))}")
        self.problem, self.remedy = problem, remedy


class TooManyPixels(BrokenInput):
    """An image that its header says is larger than allowed."""


class UnknownFormat(BrokenInput):
    """Bytes that are an image of no format that is read."""


@contextmanager
def by_itself() -> Iterator[None]:
    """Around work on the one image that a command was given: it has no data set whose options could be the remedy."""
    try:
        yield
    except BrokenInput as error:
        raise UserError(f"{error.problem}; {error.remedy}") from None


class Encoded(Hashable, Protocol):
    """Where the encoded bytes of one image lie. Equal values are the same image."""

    @property
    def name(self) -> str:
        """How messages call it."""
        ...

    def read(self) -> bytes:
        """The encoded bytes.

        Raises:
            UserError: they cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True)
class FileImage:
    """A whole file, or `size` bytes of one from `offset` (a member of an uncompressed tar)."""

    path: Path
    member: str = ""
    offset: int = 0
    size: int = -1

    @property
    def name(self) -> str:
        return f"{self.path}, member {self.member}" if self.member else str(self.path)

    def read(self) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                return file.read(self.size)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise BrokenInput(f"image {self.name}: {reason}", "correct its name or add the file") from None


class LazyImages:
    """The `Images` protocol over encoded images: a slice is read and decoded when it is asked for, and not kept.

    Args:
        encoded: one per image.
        size: side of the decoded squares.
        max_pixels: see `decode`.
    """

    def __init__(self, encoded: Sequence[Encoded], size: int, max_pixels: int) -> None:
        self.encoded, self.size, self.max_pixels = encoded, size, max_pixels

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, rows: slice) -> np.ndarray:
        picked = self.encoded[rows]
        result = np.empty((len(picked), self.size, self.size, 3), dtype=np.uint8)
        for row, one in enumerate(picked):
            result[row] = decode(one.read(), self.size, max_pixels=self.max_pixels, name=one.name)
        return result


def decode(
    source: bytes | str | os.PathLike[str],
    size: int,
    *,
    max_pixels: int,
    name: str = "",
    formats: Sequence[str] = FORMATS,
) -> np.ndarray:
    """Decode one image: upright by its EXIF orientation, first frame, 16 bits to 8, RGB over white.

    Args:
        source: encoded bytes, or the path of a file.
        size: side of the result.
        max_pixels: larger images are refused by their header, before their pixels are decoded.
        name: how messages call the image; a path needs none.
        formats: those to read, of `FORMATS`.

    Returns:
        uint8 (size, size, 3); the whole image, centred, its longest side `size`.

    Raises:
        BrokenInput: missing, empty, truncated, too large or no image.
    """
    with _opened(source, max_pixels, name, formats) as image:
        return np.asarray(square(image, size))


def check(source: bytes | str | os.PathLike[str], *, max_pixels: int, name: str = "") -> None:
    """Read the header only: what is no image or too large raises `UserError`, a truncated image does not yet."""
    with _opened(source, max_pixels, name, FORMATS):
        pass


@contextmanager
def _opened(
    source: bytes | str | os.PathLike[str], max_pixels: int, name: str, formats: Sequence[str]
) -> Iterator[Image.Image]:
    """The image with its header read and its size checked; whatever goes wrong inside becomes one `BrokenInput`."""
    if not isinstance(source, bytes):
        name = name or str(source)
        source = FileImage(Path(source)).read()
    name = f"image {name or '(bytes)'}"
    if not source:
        raise BrokenInput(f"{name}: is empty", "replace it")
    try:
        with Image.open(BytesIO(source), formats=tuple(formats)) as image:
            if (pixels := image.width * image.height) > max_pixels:
                raise TooManyPixels(
                    f"{name}: {image.width} x {image.height} = {pixels} pixels, at most {max_pixels} are allowed",
                    "shrink the image",
                    "raise data.pairs.max_pixels",
                )
            yield image
    except UserError:
        raise
    except Image.DecompressionBombError:  # raised before our own check could see the size
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise TooManyPixels(f"{name}: more than the {limit} pixels that Pillow reads", "shrink it") from None
    except UnidentifiedImageError:
        raise UnknownFormat(f"{name}: is none of {', '.join(formats)}", "convert or replace it") from None
    except Exception as error:  # Pillow's decoders raise almost anything on damaged bytes
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BrokenInput(f"{name}: truncated or damaged ({reason})", "replace it") from None


def square(image: Image.Image, size: int) -> Image.Image:
    """A picture as RGB, whole in the middle of a white square."""
    width, height = _fit(image.size, size)
    image.draft(None, (2 * width, 2 * height))  # JPEG: decode at 1/2, 1/4 or 1/8, still twice too large
    image.load()
    image = _eight_bit(_upright(image))
    image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    fitted = _fit(image.size, size)
    if fitted != image.size:
        image = image.resize(fitted, Image.Resampling.BICUBIC, reducing_gap=3.0)
    square = Image.new("RGB", (size, size), "white")
    corner = ((size - fitted[0]) // 2, (size - fitted[1]) // 2)
    square.paste(image, corner, image if image.mode == "RGBA" else None)
    return square


def _fit(sides: tuple[int, int], size: int) -> tuple[int, int]:
    """Width and height scaled so that the longer is `size`."""
    scale = size / max(sides)
    return max(1, round(sides[0] * scale)), max(1, round(sides[1] * scale))


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block is no reason to refuse the pixels
        return image
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit grey by its upper byte: a fixed scale, so that equal values stay equal in all images.

    Its transparent value is one of all 16 bits, so that it becomes an alpha channel before they are gone.
    """
    if image.mode == "F":
        raise ValueError("pixels are floating-point numbers of unknown range, save them with 8 or 16 bits")
    if image.mode.startswith("I"):
        grey = np.asarray(image)
        eight = Image.fromarray((np.clip(grey, 0, 65535) >> 8).astype(np.uint8))
        if "transparency" in image.info:
            eight.putalpha(Image.fromarray((grey != image.info["transparency"]).astype(np.uint8) * 255))
        return eight
    return image
