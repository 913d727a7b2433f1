"""Images that callers send, to the pixels that models read: in worker threads, and checked before they are decoded."""

import asyncio
import base64
import binascii
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from archlab.data.images import BrokenInput, TooManyPixels, UnknownFormat, decode
from archlab.serve import problems
from archlab.serve.limits import Turns
from archlab.serve.problems import Problem, invalid

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
_DATA_URL = "data:image/…;base64,…"


class ImageReader:
    """Decodes images in a bounded number of threads, which callers get in turns.

    Args:
        threads: how many.
        most_bytes: of one encoded image.
        most_pixels: of one image, by its header.
        observe: told the seconds that each image took.
    """

    def __init__(
        self, threads: int, *, most_bytes: int, most_pixels: int, observe: Callable[[float], None] = lambda _: None
    ) -> None:
        self._pool, self._turns = ThreadPoolExecutor(threads, "decode"), Turns(threads)
        self._most_bytes, self._most_pixels, self._observe = most_bytes, most_pixels, observe

    async def read(self, image: str | bytes, size: int, field: str, caller: str) -> np.ndarray:
        """Decode one image; cancelling it takes it out of the queue.

        Args:
            image: encoded, as bytes, base64 or a data URL.
            size: side of the square that the model reads.
            field: of the request, for problems.
            caller: who sent it.

        Returns:
            uint8 (size, size, 3).

        Raises:
            Problem: it is no image, damaged, or too large.
        """
        started = time.perf_counter()
        async with self._turns.place(caller):
            pixels = await asyncio.get_running_loop().run_in_executor(self._pool, self._decode, image, size, field)
        self._observe(time.perf_counter() - started)
        return pixels

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _decode(self, image: str | bytes, size: int, field: str) -> np.ndarray:
        if encoded_size(image) > self._most_bytes:
            raise invalid(field, f"must have at most {self._most_bytes} bytes", problems.TOO_LARGE)
        data = image if isinstance(image, bytes) else _unpack(image, field)
        try:
            return decode(data, size, max_pixels=self._most_pixels, name=field, formats=FORMATS)
        except TooManyPixels as error:
            raise _problem(error, field, problems.TOO_LARGE) from None
        except UnknownFormat as error:
            raise _problem(error, field, problems.UNSUPPORTED_MEDIA_TYPE) from None
        except BrokenInput as error:
            raise _problem(error, field, problems.INVALID) from None


def encoded_size(image: str | bytes) -> int:
    """Bytes of an encoded image, at least; four letters of base64 are three bytes, so nothing need be unpacked."""
    return len(image) if isinstance(image, bytes) else len(image) * 3 // 4 - 64


def _unpack(text: str, field: str) -> bytes:
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise invalid(field, f"must be a data URL of the form {_DATA_URL}")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise invalid(field, "must be valid base64") from None


def _problem(error: BrokenInput, field: str, kind: problems.Kind) -> Problem:
    return invalid(field, error.problem.removeprefix(f"image {field}: "), kind)
