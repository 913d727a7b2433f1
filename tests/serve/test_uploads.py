"""Promises about images of callers: no bytes kill a worker, and every refusal names the field and the rule."""

from __future__ import annotations

import asyncio
import base64
import struct
import threading
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.serve.live import base64_of, noise, picture

from archlab.serve.problems import Problem
from archlab.serve.uploads import FORMATS, ImageReader

LIMITS = {"most_bytes": 20_000, "most_pixels": 5_000}


def read(image: str | bytes, reader: ImageReader | None = None) -> np.ndarray:
    own = reader or ImageReader(1, **LIMITS)
    try:
        return asyncio.run(own.read(image, 16, "image", "me"))
    finally:
        if reader is None:
            own.close()


def refusal(image: str | bytes) -> tuple[int, str]:
    with pytest.raises(Problem) as caught:
        read(image)
    (error,) = caught.value.errors
    assert error.field == "image"
    return caught.value.kind.status, error.rule


@pytest.mark.parametrize("kind", FORMATS)
def test_all_ways_to_send_an_image_give_the_same_pixels(kind: str) -> None:
    data = picture("blue", kind=kind)
    pixels = read(data)
    assert pixels.shape == (16, 16, 3)
    assert pixels.dtype == np.uint8
    assert pixels[8, 8, 2] > 200
    for text in (
        base64_of(data),
        f"data:image/{kind.lower()};base64,{base64_of(data)}",
        base64.encodebytes(data).decode(),
    ):
        assert np.array_equal(read(text), pixels)


def test_too_many_bytes_are_refused_before_they_are_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base64, "b64decode", lambda *_, **__: pytest.fail("was unpacked"))
    for image in ("A" * 30_000, b"x" * 20_001):
        assert refusal(image) == (413, "must have at most 20000 bytes")


def test_a_bomb_is_refused_by_its_header() -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    status, rule = refusal(bomb)
    assert status == 413
    assert "pixels" in rule
    assert refusal(picture(size=(100, 51)))[0] == 413
    assert read(picture(size=(100, 50))).shape == (16, 16, 3)


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "PPM"])
def test_formats_that_no_browser_sends_are_refused(kind: str) -> None:
    assert refusal(picture(kind=kind)) == (415, "is none of JPEG, PNG, WEBP, GIF")


@pytest.mark.parametrize(
    ("image", "status", "rule"),
    [
        (b"", 422, "is empty"),
        ("****", 422, "valid base64"),
        ("AAA", 422, "valid base64"),
        ("data:image/png;base64", 422, "a data URL of the form"),
        ("data:image/png,AAAA", 422, "a data URL of the form"),
        ("data:image/png;base64,", 422, "is empty"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "is none of"),
        (b"\x89PNG\r\n\x1a\n", 415, "is none of"),
        (noise()[:-2000], 422, "truncated or damaged"),
        (picture(kind="JPEG")[:-100], 422, "truncated or damaged"),
    ],
)
def test_what_is_no_image_names_the_rule(image: str | bytes, status: int, rule: str) -> None:
    found = refusal(image)
    assert found[0] == status
    assert rule in found[1]
    assert "data.pairs" not in found[1]


def test_a_caller_with_many_images_delays_another_by_one_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        reader, order, gate = ImageReader(1, **LIMITS), list[str](), threading.Event()

        def decode(_: object, size: int, field: str) -> np.ndarray:
            assert gate.wait(60)
            order.append(field)
            return np.zeros((size, size, 3), np.uint8)

        monkeypatch.setattr(reader, "_decode", decode)
        flood = [asyncio.create_task(reader.read(b"", 1, f"flood {number}", "flood")) for number in range(20)]
        await asyncio.sleep(0)
        other = asyncio.create_task(reader.read(b"", 1, "other", "other"))
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(other, *flood)
        assert order.index("other") <= 2
        reader.close()

    asyncio.run(main())


def test_no_bytes_kill_a_worker() -> None:
    """Random bytes, and real images cut and overwritten, from one reader that must still work afterwards."""
    reader = ImageReader(1, **LIMITS)
    statuses: set[int] = set()
    valid = [picture(kind=kind) for kind in FORMATS]

    def survives(data: bytes | str) -> None:
        try:
            assert read(data, reader).shape == (16, 16, 3)
        except Problem as problem:
            statuses.add(problem.kind.status)

    @settings(max_examples=200)
    @given(st.binary(max_size=300) | st.text(max_size=100))
    def random(data: bytes | str) -> None:
        survives(data)

    @settings(max_examples=300)
    @given(st.sampled_from(valid), st.floats(0, 1), st.floats(0, 0.999), st.binary(max_size=12))
    def damaged(data: bytes, cut: float, place: float, junk: bytes) -> None:
        start = int(place * len(data))
        survives((data[:start] + junk + data[start + len(junk) :])[: int(cut * len(data)) + 1])

    random()
    damaged()
    assert statuses <= {413, 415, 422}
    assert read(valid[0], reader).shape == (16, 16, 3)
    reader.close()
