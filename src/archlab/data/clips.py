"""Clips to a few frames each: decoded with PyAV, in order, and never held whole.

A clip is cut into T equal parts, and of each the frame is taken that is on display at its middle. Frames are decoded
one by one and dropped again; where the next one wanted lies far ahead, the decoder jumps to the keyframe before it.
So memory does not depend on how long a clip is, and time only up to a point. Pixels are made as those of images are
(`data.images`): upright, whole, on white.

Shape legend: n clips, T frames, H x W pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from PIL import Image

from archlab.data.images import BrokenInput, Encoded, FileImage, TooManyPixels, UnknownFormat, check, decode, square
from archlab.errors import UserError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame

SAMPLING = "middles-1"
"""Name of the rule by which frames are chosen; part of every digest, so that a changed rule is never a stale cache."""

SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".gif"})

_FORMATS = "mov,mp4,matroska,webm,avi,gif"  # of FFmpeg; others, as playlists, would open files and addresses they name
_JUMP = 5.0  # seconds ahead for which looking for a keyframe is worth it
_WHOLE = 0.9  # share of its stated length that must be there, else a clip is truncated


def clip_of(image: Encoded) -> Path | None:
    """The file of what can be a clip; None for images. A GIF is either."""
    if isinstance(image, FileImage) and not image.member and is_clip(image.path):
        return image.path
    return None


def is_clip(path: Path) -> bool:
    """Whether a file is a clip by its name; a GIF is one, too."""
    return path.suffix.lower() in SUFFIXES


def require_av() -> Any:
    """PyAV.

    Raises:
        UserError: it is not installed.
    """
    try:
        import av
    except ModuleNotFoundError:
        raise UserError(
            "clips are read with the Python package 'av', which is missing; install it with: pip install av"
        ) from None
    return av


@dataclass(frozen=True)
class ClipReader:
    """How clips, and images among them, are read.

    Attributes:
        size: H and W.
        frames: T.
        max_pixels: clips of larger frames are refused before they are decoded.
        max_seconds: longer clips likewise.
    """

    size: int
    frames: int
    max_pixels: int
    max_seconds: float

    def read(self, image: Encoded) -> np.ndarray:
        """Uint8 RGB (T, H, W, 3); an image fills the clip.

        Raises:
            BrokenInput: missing, empty, truncated, too large, too long or no clip.
        """
        path = clip_of(image)
        if path is None:
            still = decode(image.read(), self.size, max_pixels=self.max_pixels, name=image.name)
            return np.repeat(still[None], self.frames, 0)
        with Film(path, self.max_pixels) as film:
            length = self._length(film)
            middles = [(part + 0.5) * length / self.frames for part in range(self.frames)]
            shown = [film.pixels(frame, self.size) for _, frame in film.shown(middles)]
            if film.end < _WHOLE * length and len(shown) < self.frames:
                raise BrokenInput(
                    f"clip {path}: ends after {film.end:.3g} of {length:.3g} seconds, truncated or damaged",
                    "replace it",
                )
        return np.stack([*shown, *shown[-1:] * (self.frames - len(shown))])

    def check(self, image: Encoded) -> None:
        """Read the header only; see `read`. A truncated clip raises nothing yet."""
        path = clip_of(image)
        if path is None:
            check(image.read(), max_pixels=self.max_pixels, name=image.name)
            return
        with Film(path, self.max_pixels) as film:
            self._length(film)

    def _length(self, film: Film) -> float:
        if (length := film.length()) > self.max_seconds:
            raise BrokenInput(
                f"clip {film.path}: {length:.4g} seconds, at most {self.max_seconds:g} are allowed",
                "shorten the clip, raise data.pairs.max_seconds",
            )
        return length


class LazyClips:
    """The `Images` protocol over clips: a slice is decoded when it is asked for, and not kept; (n, T, H, W, 3)."""

    def __init__(self, encoded: Sequence[Encoded], reader: ClipReader) -> None:
        self.encoded, self.reader = encoded, reader

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, rows: slice) -> np.ndarray:
        picked, side = self.encoded[rows], self.reader.size
        result = np.empty((len(picked), self.reader.frames, side, side, 3), dtype=np.uint8)
        for row, one in enumerate(picked):
            result[row] = self.reader.read(one)
        return result


def clip_fingerprint(path: Path) -> str:
    """Identity of a clip: equal bytes, equal clip. Read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def stream_clip(path: Path, size: int, rate: float, *, max_pixels: int) -> Iterator[tuple[float, np.ndarray]]:
    """The frames of a clip of any length, as they would be seen live: (second, uint8 RGB (H, W, 3)).

    Args:
        rate: frames per second that are looked at.

    Raises:
        BrokenInput: missing, empty, too large, damaged or no clip.
    """
    with Film(path, max_pixels) as film:
        for second, frame in film.shown(number / rate for number in count()):
            yield second, film.pixels(frame, size)


class Film:
    """An open clip. Times are in seconds from its first frame.

        with Film(path, max_pixels) as film:
            for second, frame in film.shown([0.5, 1.5]):
                pixels = film.pixels(frame, 64)

    Whatever is wrong with the file is a `BrokenInput`, when it is opened or inside the block.

    Attributes:
        end: when the last frame that was decoded stops being on display.
    """

    def __init__(self, path: Path, max_pixels: int) -> None:
        self.path, self.end = path, 0.0
        self._av, self._max_pixels = require_av(), max_pixels
        self._jumps = True  # until one leads nowhere

    def __enter__(self) -> Self:
        with self._told():
            self._open()
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()
        self._file.close()

    def length(self) -> float:
        """As the header says, or, where it does not, as the time stamps do: one pass without decoding."""
        if self._stream.duration is not None and self._stream.time_base is not None:
            return float(self._stream.duration * self._stream.time_base)
        if self._container.duration is not None:
            return float(self._container.duration / self._av.time_base)
        with self._told():
            packets = (packet for packet in self._container.demux(self._stream) if packet.pts is not None)
            end = max((self._second(packet) + self._lasts(packet) for packet in packets), default=0.0)
            self._reopen()
        return end

    def shown(self, times: Iterable[float]) -> Iterator[tuple[float, VideoFrame]]:
        """The frame on display at each of some increasing times, as (time, frame), until the film is over."""
        with self._told():
            ahead = self._decoded()
            now, after = None, next(ahead, None)
            if after is None:
                raise BrokenInput(f"clip {self.path}: holds no frame", "replace it")
            for time in times:
                if after is not None and self._jumps and time - after[0] > _JUMP:
                    ahead = self._jump(after[0], time)
                    now, after = None, next(ahead, None)
                while after is not None and (now is None or after[0] <= time):
                    now, after = after, next(ahead, None)
                    self.end = now[0] + self._lasts(now[1])
                assert now is not None, "the first frame is there"
                if after is None and time >= self.end:
                    return
                yield time, now[1]

    def pixels(self, frame: VideoFrame, size: int) -> np.ndarray:
        """A frame upright in a white square, uint8 RGB (size, size, 3)."""
        self._small_enough(frame.width, frame.height)
        alpha = any(component.is_alpha for component in frame.format.components)
        with self._told():
            image = Image.fromarray(frame.to_ndarray(format="rgba" if alpha else "rgb24"))
        if (aspect := self._stream.sample_aspect_ratio or 1) != 1:  # of its pixels
            image = image.resize((max(1, round(image.width * aspect)), image.height))
        if frame.rotation:
            image = image.rotate(frame.rotation, expand=True)  # counter-clockwise, both
        return np.asarray(square(image, size))

    def _open(self) -> None:
        self._file = self.path.open("rb")
        try:
            if not self._file.read(1):
                raise BrokenInput(f"clip {self.path}: is empty", "replace it")
            self._file.seek(0)
            container: InputContainer = self._av.open(
                self._file, metadata_errors="ignore", options={"format_whitelist": _FORMATS}
            )
        except BaseException:
            self._file.close()
            raise
        self._container = container
        if not container.streams.video:
            self.__exit__()
            raise BrokenInput(f"clip {self.path}: holds no pictures", "replace it")
        self._stream = container.streams.video[0]
        try:
            self._small_enough(self._stream.codec_context.width, self._stream.codec_context.height)
        except BrokenInput:
            self.__exit__()
            raise

    def _reopen(self) -> None:
        self.__exit__()
        self._open()

    def _decoded(self) -> Iterator[tuple[float, VideoFrame]]:
        """All frames from where the file stands, with their times."""
        for number, frame in enumerate(self._container.decode(self._stream)):
            if frame.pts is None:  # raw streams in old containers count frames, not time
                yield number / float(self._stream.average_rate or 25), frame
            else:
                yield self._second(frame), frame

    def _jump(self, now: float, time: float) -> Iterator[tuple[float, VideoFrame]]:
        """Frames from the last keyframe before a time, if there is one after `now`; else all, and no jumps any more."""
        base = self._stream.time_base
        assert base is not None
        try:
            self._container.seek(round(time / base) + (self._stream.start_time or 0), stream=self._stream)
            landed = self._decoded()
            first = next(landed, None)
        except self._av.FFmpegError:
            first = None
        if first is not None and now < first[0] <= time:
            yield first
            yield from landed
        else:
            self._jumps = False
            self._reopen()
            yield from self._decoded()

    def _second(self, one: Any) -> float:
        """Of a packet or frame with a time stamp."""
        return float((one.pts - (self._stream.start_time or 0)) * one.time_base)

    def _lasts(self, one: Any) -> float:
        """How long a packet or frame is on display."""
        if one.duration and one.time_base:
            return float(one.duration * one.time_base)
        return 1 / float(self._stream.average_rate or 25)

    def _small_enough(self, width: int, height: int) -> None:
        if (pixels := width * height) > self._max_pixels:
            raise TooManyPixels(
                f"clip {self.path}: {width} x {height} = {pixels} pixels a frame, "
                f"at most {self._max_pixels} are allowed",
                "shrink the clip, raise data.pairs.max_pixels",
            )

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Whatever goes wrong inside becomes one `BrokenInput`."""
        name = f"clip {self.path}"
        try:
            yield
        except UserError:
            raise
        except self._av.FFmpegError as error:
            opened = hasattr(self, "_container")
            if not opened and isinstance(error, self._av.error.InvalidDataError):
                message = f"{name}: is truncated, or none of MP4, MOV, WebM, Matroska, AVI and GIF"
                raise UnknownFormat(message, "convert or replace it") from None
            raise BrokenInput(f"{name}: truncated or damaged ({error.strerror or error})", "replace it") from None
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise BrokenInput(f"{name}: {reason}", "correct its name or add the file") from None
