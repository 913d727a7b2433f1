"""Promises about clips: which frames are taken, that they are upright and whole, and what is said of broken ones."""

from __future__ import annotations

import io
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from tests.clips import CODECS, greys, levels, write_clip

from archlab.data import clips
from archlab.data.clips import ClipReader, Film, LazyClips, clip_fingerprint, stream_clip
from archlab.data.images import BrokenInput, FileImage, TooManyPixels, UnknownFormat
from archlab.errors import UserError

READER = ClipReader(16, 4, max_pixels=10_000, max_seconds=60)


def read(path: Path, frames: int = 4, **settings: Any) -> np.ndarray:
    options = {"max_pixels": 10_000, "max_seconds": 60.0} | settings
    return ClipReader(16, frames, **options).read(FileImage(path))


@pytest.mark.parametrize("suffix", CODECS)
def test_frames_are_those_on_display_at_the_middles_of_equal_parts(suffix: str, tmp_path: Path) -> None:
    path = write_clip(tmp_path / f"clip{suffix}", greys(12))
    assert levels(read(path, 4)) == [1, 4, 7, 10]
    assert levels(read(path, 12)) == list(range(12))
    assert levels(read(path, 1)) == [6]


def test_a_gif_moves_and_may_be_transparent(tmp_path: Path) -> None:
    frames = [Image.new("RGBA", (16, 16), (40 * n, 40 * n, 40 * n, 255)) for n in range(4)]
    for frame in frames:
        frame.paste((0, 0, 0, 0), (0, 0, 16, 4))
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100, disposal=2)
    clip = read(tmp_path / "a.gif")
    assert clip[:, 10, 8, 0].tolist() == pytest.approx([0, 40, 80, 120], abs=4)
    assert (clip[:, 1] > 250).all()  # white shows through


def test_a_clip_shorter_than_asked_for_repeats_its_frames(tmp_path: Path) -> None:
    assert levels(read(write_clip(tmp_path / "a.mp4", greys(2)), 6)) == [0, 0, 0, 1, 1, 1]
    Image.new("RGB", (8, 8), (60, 60, 60)).save(tmp_path / "still.gif")
    assert levels(read(tmp_path / "still.gif", 3)) == [3, 3, 3]


def test_an_image_fills_a_clip(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (80, 80, 80)).save(tmp_path / "a.png")
    assert levels(read(tmp_path / "a.png", 3)) == [4, 4, 4]
    READER.check(FileImage(tmp_path / "a.png"))


def test_clips_are_whole_on_white_and_not_stretched(tmp_path: Path) -> None:
    clip = read(write_clip(tmp_path / "wide.mp4", np.zeros((4, 32, 64, 3), np.uint8)))
    assert (clip[:, [0, -1]] > 250).all()
    assert (clip[:, 5:11] < 40).all()


def turned(path: Path, a: int, b: int, c: int, d: int) -> Path:
    """The file with another display matrix in its track header, as phones write it."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 40  # version and flags, then the fields before the matrix
    for number, value in zip((0, 1, 3, 4), (a, b, c, d), strict=True):
        data[place + 4 * number : place + 4 * number + 4] = (value * 65536).to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    return path


def test_clips_of_phones_stand_upright(tmp_path: Path) -> None:
    frames = np.zeros((4, 32, 32, 3), np.uint8)
    frames[:, :16] = 200  # light above
    plain = read(write_clip(tmp_path / "a.mp4", frames))[0, :, :, 0]
    assert plain[2, 8] > 150 > 50 > plain[13, 8]
    clockwise = read(turned(write_clip(tmp_path / "b.mp4", frames), 0, 1, -1, 0))[0, :, :, 0]
    assert clockwise[8, 13] > 150 > 50 > clockwise[8, 2]  # what was above is on the right


def test_wide_pixels_are_drawn_wide(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.height = stream.width = 32
        stream.pix_fmt = "yuv420p"
        stream.codec_context.sample_aspect_ratio = 2
        for pixels in greys(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    clip = read(path)
    assert (clip[0, 0] > 250).all()
    assert (clip[0, 8] < 20).all()


def counted(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The times of all frames that are decoded from now on."""
    seen: list[float] = []
    decoded = Film._decoded

    def noted(self: Film) -> Iterator[tuple[float, Any]]:
        for time, frame in decoded(self):
            seen.append(time)
            yield time, frame

    monkeypatch.setattr(Film, "_decoded", noted)
    return seen


LONG = greys(120, 16, 16, step=2)  # a minute at two frames a second


def shades(clip: np.ndarray) -> list[int]:
    return [round(float(frame[8, 8, 0]) / 2) for frame in clip]


def test_between_frames_far_apart_the_decoder_jumps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "a.mp4", LONG, rate=2, g="4", bf="0")
    seen = counted(monkeypatch)
    found = shades(read(path))
    assert found == pytest.approx([15, 45, 75, 105], abs=1)
    assert len(seen) < 40  # of 120


def test_without_keyframes_to_jump_to_frames_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "a.mp4", LONG, rate=2, g="1000", bf="0", sc_threshold="0")
    seen = counted(monkeypatch)
    assert shades(read(path)) == pytest.approx([15, 45, 75, 105], abs=1)
    assert len(seen) < 2 * 120 + 8  # no jump is tried twice


class OneWay(io.BytesIO):
    """A file that cannot go back, as a browser's recorder writes it."""

    def seekable(self) -> bool:
        return False

    seek = None  # type: ignore[assignment]


def test_a_recording_without_length_or_index_is_measured(tmp_path: Path) -> None:
    file = OneWay()
    write_clip(file, greys(12), codec="libvpx-vp9", form="webm")
    path = tmp_path / "live.webm"
    path.write_bytes(file.getvalue())
    with av.open(path) as container:
        assert container.duration is None  # what the test is about
    assert levels(read(path)) == [1, 4, 7, 10]


def test_memory_holds_a_few_frames_and_not_the_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames are counted while they live."""
    path = write_clip(tmp_path / "a.mp4", LONG, rate=30)
    alive, most = set(), 0
    decoded = Film._decoded

    class Held:
        def __init__(self, frame: Any) -> None:
            self.frame = frame
            alive.add(id(self))

        def __getattr__(self, name: str) -> Any:
            return getattr(self.frame, name)

        def __del__(self) -> None:
            alive.discard(id(self))

    def noted(self: Film) -> Iterator[tuple[float, Any]]:
        nonlocal most
        for time, frame in decoded(self):
            held = Held(frame)
            most = max(most, len(alive))
            yield time, held

    monkeypatch.setattr(Film, "_decoded", noted)
    read(path, 8)
    assert 2 <= most <= 4


def test_a_stream_gives_frames_at_its_rate_to_the_end_of_any_clip(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", greys(12), rate=4)  # three seconds
    found = list(stream_clip(path, 16, 2.0, max_pixels=10_000))
    assert [time for time, _ in found] == [0, 0.5, 1, 1.5, 2, 2.5]
    assert levels(np.stack([pixels for _, pixels in found])) == [0, 2, 4, 6, 8, 10]
    (first,) = itertools.islice(stream_clip(path, 16, 2.0, max_pixels=10_000), 1)
    assert first[1].shape == (16, 16, 3)


def sound(path: Path) -> Path:
    with av.open(path, "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_what_is_wrong_with_a_clip_is_one_line(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.mp4", greys(12))
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("a text\n" * 50)
    data = whole.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: data.index(b"moov")])  # its table of contents stands at the end
    (tmp_path / "playlist.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nwhole.mp4\n#EXT-X-ENDLIST\n")
    cases: list[tuple[str, dict[str, Any], type[UserError], str]] = [
        ("missing.mp4", {}, BrokenInput, "no such file or directory; correct its name"),
        ("empty.mp4", {}, BrokenInput, "is empty; replace it"),
        ("text.mp4", {}, UnknownFormat, "is truncated, or none of MP4, MOV, WebM"),
        ("cut.mp4", {}, UnknownFormat, "is truncated, or none of MP4"),
        ("playlist.mp4", {}, UnknownFormat, "is truncated, or none of MP4"),
        (sound(tmp_path / "sound.mp4").name, {}, BrokenInput, "holds no pictures"),
        ("whole.mp4", {"max_pixels": 1000}, TooManyPixels, "32 x 32 = 1024 pixels a frame, at most 1000 are allowed"),
        ("whole.mp4", {"max_seconds": 1.0}, BrokenInput, "1.5 seconds, at most 1 are allowed; shorten the clip, raise"),
    ]
    for name, settings, kind, message in cases:
        for looked in ("read", "check"):
            options = {"max_pixels": 10_000, "max_seconds": 60.0} | settings
            with pytest.raises(kind) as caught:
                getattr(ClipReader(16, 4, **options), looked)(FileImage(tmp_path / name))
            said = str(caught.value)
            assert message in said, said
            assert f"clip {tmp_path / name}: " in said
            assert "\n" not in said
    read(whole)  # negative control


def test_a_clip_that_ends_too_early_is_truncated(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "a.mkv", np.random.default_rng(0).integers(0, 256, (24, 64, 64, 3), np.uint8))
    data = whole.read_bytes()
    (tmp_path / "half.mkv").write_bytes(data[: len(data) // 2])
    READER.check(FileImage(tmp_path / "half.mkv"))  # its header is fine
    with pytest.raises(BrokenInput, match=r"truncated or damaged"):
        read(tmp_path / "half.mkv")


def test_a_slice_of_clips_is_decoded_when_it_is_asked_for(tmp_path: Path) -> None:
    paths = [write_clip(tmp_path / f"{n}.mp4", greys(8)[n:]) for n in range(3)]
    lazy = LazyClips([FileImage(path) for path in paths], READER)
    assert len(lazy) == 3
    assert lazy[1:3].shape == (2, 4, 16, 16, 3)
    assert levels(lazy[2:3][0])[0] >= 2
    assert lazy[3:].shape == (0, 4, 16, 16, 3)


def test_equal_bytes_are_one_clip(tmp_path: Path) -> None:
    first, second = write_clip(tmp_path / "a.mp4", greys(4)), write_clip(tmp_path / "b.mp4", greys(5))
    (tmp_path / "c.mp4").write_bytes(first.read_bytes())
    assert clip_fingerprint(first) == clip_fingerprint(tmp_path / "c.mp4") != clip_fingerprint(second)


def test_without_pyav_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"'av', which is missing; install it with: pip install av$"):
        clips.require_av()
