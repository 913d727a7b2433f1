"""Tiny encoded images for tests of the readers."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import pytest
from PIL import Image


@pytest.fixture
def png() -> Callable[..., bytes]:
    """`png(number)`: an 8-pixel PNG of a colour of its own, so that different numbers are different images."""

    def make(number: int = 0, size: tuple[int, int] = (8, 8)) -> bytes:
        buffer = BytesIO()
        Image.new("RGB", size, (number % 256, number // 256, 90)).save(buffer, "PNG")
        return buffer.getvalue()

    return make
