"""Promises of `archlab.data.images`: every encoding becomes the right RGB square, and nothing but UserError escapes."""

from __future__ import annotations

import contextlib
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from archlab.data import images
from archlab.data.images import FileImage, LazyImages, TooManyPixels, UnknownFormat, check, decode
from archlab.errors import UserError

LIMIT = 1_000_000


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pattern(size: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)


def test_an_image_of_the_requested_size_keeps_every_pixel() -> None:
    pixels = pattern()
    assert np.array_equal(decode(encode(Image.fromarray(pixels)), 16, max_pixels=LIMIT), pixels)


def test_a_path_decodes_like_its_bytes(tmp_path: Path) -> None:
    data = encode(Image.fromarray(pattern()))
    (tmp_path / "a.png").write_bytes(data)
    assert np.array_equal(decode(tmp_path / "a.png", 16, max_pixels=LIMIT), decode(data, 16, max_pixels=LIMIT))


def test_a_wide_image_is_fitted_whole_between_white_bars() -> None:
    wide = Image.new("RGB", (40, 20), "red")
    wide.paste("blue", (0, 0, 4, 20))  # would be lost to a centre crop
    square = decode(encode(wide), 20, max_pixels=LIMIT)
    assert (square[:5] == 255).all()
    assert (square[15:] == 255).all()
    assert square[10, 0, 2] > 200
    assert square[10, 0, 0] < 60
    assert (square[5:15, 10] == (255, 0, 0)).all()


def test_a_tall_image_keeps_its_proportions() -> None:
    square = decode(encode(Image.new("RGB", (10, 30), "black")), 30, max_pixels=LIMIT)
    assert np.argwhere(square[15, :, 0] == 0).ravel().tolist() == list(range(10, 20))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation: int) -> None:
    upright = pattern()
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation](upright)))
    assert np.array_equal(decode(encode(stored, exif=exif), 16, max_pixels=LIMIT), upright)


def test_orientation_is_undone_before_the_image_is_fitted() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    square = decode(encode(Image.new("RGB", (32, 8), "black"), "JPEG", exif=exif), 32, max_pixels=LIMIT)
    assert (square[:, 16] < 30).all()
    assert (square[16, :8] == 255).all()


def test_a_damaged_exif_block_does_not_cost_the_image() -> None:
    pixels = pattern()
    damaged = encode(Image.fromarray(pixels), exif=b"no TIFF header")
    with Image.open(BytesIO(damaged)) as image, pytest.raises(SyntaxError):
        image.getexif()
    assert np.array_equal(decode(damaged, 16, max_pixels=LIMIT), pixels)


def test_transparency_lies_over_white() -> None:
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 4, 8))
    square = decode(encode(image), 8, max_pixels=LIMIT)
    assert (square[:, 4:] == 255).all()
    assert (square[:, :4] == (255, 0, 0)).all()


def test_a_transparent_palette_entry_lies_over_white() -> None:
    image = Image.new("P", (8, 8), 0)
    image.putpalette([0, 0, 0, 0, 0, 255])
    image.paste(1, (0, 0, 8, 4))
    square = decode(encode(image, transparency=0), 8, max_pixels=LIMIT)
    assert (square[:4] == (0, 0, 255)).all()
    assert (square[4:] == 255).all()


def test_sixteen_bit_grey_keeps_its_upper_byte() -> None:
    grey = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16).repeat(5, axis=0)
    square = decode(encode(Image.fromarray(grey)), 5, max_pixels=LIMIT)
    assert square[0].tolist() == [[v] * 3 for v in (0, 0, 1, 128, 255)]


def test_the_transparent_value_of_sixteen_bit_grey_lies_over_white_and_its_neighbours_do_not() -> None:
    grey = np.array([[0, 299, 300, 301, 65535]], dtype=np.uint16).repeat(5, axis=0)
    square = decode(encode(Image.fromarray(grey), transparency=300), 5, max_pixels=LIMIT)
    assert square[0].tolist() == [[v] * 3 for v in (0, 1, 255, 1, 255)]


def test_one_bit_and_grey_images_become_rgb() -> None:
    assert (decode(encode(Image.new("1", (8, 8), 1)), 8, max_pixels=LIMIT) == 255).all()
    assert (decode(encode(Image.new("L", (8, 8), 77)), 8, max_pixels=LIMIT) == 77).all()


def test_cmyk_becomes_rgb() -> None:
    square = decode(encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95), 16, max_pixels=LIMIT)
    assert np.abs(square.astype(int) - (255, 0, 0)).max() < 12


def test_an_animation_shows_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("lime", "red")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (decode(data, 8, max_pixels=LIMIT) == (0, 255, 0)).all()


def test_a_large_jpeg_is_decoded_at_a_fraction_of_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    original = Image.Image.convert
    monkeypatch.setattr(Image.Image, "convert", lambda self, mode: (loaded.append(self.size), original(self, mode))[1])
    data = encode(Image.new("RGB", (800, 400), "teal"), "JPEG")
    decode(data, 50, max_pixels=LIMIT)
    assert loaded == [(100, 50)]


def test_a_decompression_bomb_is_refused_by_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    monkeypatch.setattr(images, "square", lambda *_: pytest.fail("pixels were decoded"))
    for refuse in (lambda: decode(bomb, 8, max_pixels=LIMIT, name="b.png"), lambda: check(bomb, max_pixels=LIMIT)):
        with pytest.raises(UserError, match=r"81000000 pixels, at most 1000000 are .* raise data.pairs.max_pixels"):
            refuse()


def test_the_limit_itself_is_allowed() -> None:
    assert decode(encode(Image.new("RGB", (10, 10))), 4, max_pixels=100).shape == (4, 4, 3)
    with pytest.raises(UserError, match="max_pixels"):
        decode(encode(Image.new("RGB", (10, 10))), 4, max_pixels=99)


def test_more_pixels_than_pillow_reads_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(UserError, match="more than the 20 pixels that Pillow reads"):
        decode(encode(Image.new("RGB", (10, 10))), 4, max_pixels=LIMIT)


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (b"", "is empty"),
        (b"not an image at all", "is none of JPEG, PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is none of JPEG, PNG"),
        (encode(Image.fromarray(pattern(64)))[:-2000], "truncated or damaged"),
        (encode(Image.fromarray(pattern(64)), "JPEG")[:-600], "truncated or damaged"),
        (encode(Image.fromarray(np.ones((4, 4), dtype=np.float32)), "TIFF"), "floating-point"),
    ],
    ids=["empty", "text", "postscript", "truncated-png", "truncated-jpeg", "float-tiff"],
)
def test_what_is_no_usable_image_names_file_rule_and_remedy(data: bytes, rule: str) -> None:
    with pytest.raises(UserError, match=rule) as caught:
        decode(data, 8, max_pixels=LIMIT, name="cat.png")
    message = str(caught.value)
    assert message.startswith("image cat.png: ")
    assert "data.pairs.on_error=skip" in message
    assert "\n" not in message


def test_what_is_wrong_stands_apart_from_the_remedy_for_data_sets() -> None:
    """The service tells the same problem to callers who have no configuration to change."""
    with pytest.raises(TooManyPixels) as large:
        decode(encode(Image.new("RGB", (10, 10))), 4, max_pixels=99, name="cat")
    assert large.value.problem == "image cat: 10 x 10 = 100 pixels, at most 99 are allowed"
    with pytest.raises(UnknownFormat) as unread:
        decode(encode(Image.new("RGB", (10, 10)), "BMP"), 4, max_pixels=LIMIT, name="cat", formats=("PNG", "GIF"))
    assert unread.value.problem == "image cat: is none of PNG, GIF"


def test_a_missing_file_names_itself(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.png: no such file"):
        decode(tmp_path / "gone.png", 8, max_pixels=LIMIT)


VALID = [encode(Image.fromarray(pattern(24)), kind) for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM")]


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400))
def test_random_bytes_raise_nothing_but_user_error(data: bytes) -> None:
    with contextlib.suppress(UserError):
        assert decode(data, 8, max_pixels=LIMIT).shape == (8, 8, 3)


@settings(max_examples=300, deadline=None)
@given(data=st.sampled_from(VALID), cut=st.floats(0, 1), place=st.floats(0, 0.999), junk=st.binary(max_size=12))
def test_damaged_images_decode_or_raise_user_error(data: bytes, cut: float, place: float, junk: bytes) -> None:
    start = int(place * len(data))
    damaged = (data[:start] + junk + data[start + len(junk) :])[: int(cut * len(data)) + 1]
    try:
        square = decode(damaged, 8, max_pixels=LIMIT)
    except UserError:
        return
    assert square.shape == (8, 8, 3)
    assert square.dtype == np.uint8


@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 300), height=st.integers(1, 300), size=st.integers(1, 40))
def test_any_shape_becomes_the_square(width: int, height: int, size: int) -> None:
    data = encode(Image.new("RGB", (width, height), "black"))
    square = decode(data, size, max_pixels=LIMIT)
    assert square.shape == (size, size, 3)
    longest = (square[..., 0] < 128).any(axis=0 if width >= height else 1)
    assert longest.all()


def test_lazy_images_decode_the_rows_of_a_slice_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{number}.png" for number in range(20)]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(encode(Image.new("RGB", (8, 8), (number, 0, 0))))
    decoded: list[str] = []

    def counting(*arguments: object, name: str, **options: object) -> np.ndarray:
        decoded.append(Path(name).name)
        return decode(*arguments, name=name, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(images, "decode", counting)
    lazy = LazyImages([FileImage(tmp_path / name) for name in names], 8, LIMIT)
    assert len(lazy) == 20
    assert decoded == []
    assert lazy[5:8][:, 0, 0, 0].tolist() == [5, 6, 7]
    assert decoded == names[5:8]
    assert lazy[18:30].shape == (2, 8, 8, 3)
    assert lazy[20:].shape == (0, 8, 8, 3)
