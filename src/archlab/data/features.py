"""Features of the frozen X-encoder, computed once per data set and encoder and read by both arms.

The file is a memory map, so that neither the images nor the features need to fit in memory. Its name is the hash of the
images, the encoder's weights and the views: a changed input is a new file, never a stale one.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import torch

from archlab.data.example import Split
from archlab.progress import track

if TYPE_CHECKING:
    from archlab.vl.protocol import XEncoder

_CHUNK = 256  # images, or frames of clips, in memory at once

Value = TypeVar("Value")


class Machine(Protocol):
    """The processes of a job on one machine, which share its cache.

    Attributes:
        number, count: of this process among them, and how many they are.
        first: what its first process is among those of all machines.
    """

    @property
    def number(self) -> int: ...
    @property
    def count(self) -> int: ...
    @property
    def first(self) -> int: ...

    def everyone(self, value: Value, /) -> list[Value]:
        """The values of the processes of all machines, once all of them have come this far."""
        ...


class _Alone:
    number, count, first = 0, 1, 0

    def everyone(self, value: Value) -> list[Value]:
        return [value]


@dataclass(frozen=True)
class FeatureStore:
    """Cached features of one split.

    Attributes:
        array: float16 memory map (1 + views, images or clips, N, D).
        digest: hash of the inputs that determine the array.
    """

    array: np.ndarray
    digest: str

    @classmethod
    def build(
        cls, split: Split, encoder: XEncoder, cache: Path, views: int = 0, machine: Machine | None = None
    ) -> FeatureStore:
        """Open the cached features of `split`, or compute them in one sequential pass over its images.

        Args:
            views: augmented views per image beside the plain one.
            machine: the processes that compute them, each a part, where all call this; by default this one alone.
        """
        machine = machine or _Alone()
        digest = hashlib.sha256(f"{split.image_digest} {encoder.digest} {views}".encode()).hexdigest()
        path = cache / f"features-{digest[:32]}.npy"
        # Nobody waits for one that found them: where one has none, all make them.
        if any(machine.everyone(_opened(path) is None)):
            cache.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(f".{machine.everyone(os.getpid())[machine.first]}.partial")
            try:
                _compute(split, encoder, views, partial, machine)
                if machine.number == 0:
                    os.replace(partial, path)
                machine.everyone(None)
            finally:
                if machine.number == 0:
                    partial.unlink(missing_ok=True)
        return cls(np.load(path, mmap_mode="r"), digest)

    def read(self, images: np.ndarray, views: np.ndarray | int = 0) -> np.ndarray:
        """Features of the images in the given views, float32 (B, N, D)."""
        return self.array[views, images].astype(np.float32)


def cache_folder() -> Path:
    """Where features are cached: `ARCHLAB_CACHE`, or `~/.cache/archlab`."""
    return Path(os.environ.get("ARCHLAB_CACHE", Path.home() / ".cache" / "archlab"))


def augment(images: np.ndarray, first: int, view: int) -> np.ndarray:
    """View `view` of the images `first, first + 1, ...`: a shift of at most 3 pixels, brightness, contrast and noise.

    Nothing that changes an answer: no flips, crops or hue changes, and all frames of a clip are moved and lit alike.
    Each view is a pure function of the image's row.

    Args:
        images: uint8 (n, H, W, 3), or clips (n, T, H, W, 3).
    """
    if view == 0:
        return images
    height, width = images.shape[-3:-1]
    border = [*[(0, 0)] * (images.ndim - 4), (3, 3), (3, 3), (0, 0)]
    result = np.empty_like(images)
    for i, image in enumerate(images):
        generator = np.random.default_rng([first + i, view])
        dy, dx = generator.integers(0, 7, 2)
        shifted = np.pad(image, border, mode="edge")[..., dy : dy + height, dx : dx + width, :]
        gain, bias = generator.uniform(0.9, 1.1), generator.uniform(-12, 12)
        noise = generator.normal(0, 4, shifted.shape)
        result[i] = np.clip((shifted - 128.0) * gain + 128 + bias + noise, 0, 255).astype(np.uint8)
    return result


def _opened(path: Path) -> np.ndarray | None:
    try:
        return np.load(path, mmap_mode="r")
    except (FileNotFoundError, ValueError, EOFError):
        return None  # not there yet, or damaged: it is only a cache


def _compute(split: Split, encoder: XEncoder, views: int, path: Path, machine: Machine) -> None:
    count = len(split.images)
    shape = (1 + views, count, encoder.tokens, encoder.width)
    if machine.number == 0:
        np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    machine.everyone(None)
    array = np.lib.format.open_memmap(path, mode="r+")
    step = max(1, _CHUNK // max(1, encoder.clip_frames))
    starts = range(machine.number * step, count, machine.count * step)
    with track(f"features of {split.name}", sum(min(step, count - start) for start in starts)) as progress:
        for start in starts:
            images = split.images[start : start + step]
            for view in range(1 + views):
                features = encoder.encode(torch.from_numpy(augment(images, start, view)))
                array[view, start : start + len(images)] = features.to(torch.float16).cpu().numpy()
            progress.advance(len(images))
    array.flush()
    machine.everyone(None)
