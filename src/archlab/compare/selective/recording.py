"""A stream as a trained VL-JEPA sees it. Nothing is computed before somebody looks, and nothing twice.

So a policy pays for what it looks at: one that decodes every tenth frame encodes every tenth frame, and one that
watches for changes encodes them all.

Shape legend: n frames, N visual tokens, D features, E embedding.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from archlab.data.batch import Batch
from archlab.data.streams.stream import Stream
from archlab.errors import UserError
from archlab.evaluate.readout import EmbeddingReadout
from archlab.vl.answering import Answerer

Span = tuple[int, int]
"""First and last frame whose mean embedding is spoken."""

Item = TypeVar("Item")

PARTS = ("drawing", "encoder", "predictor", "decoder")


class Watcher:
    """A finished VL-JEPA run that watches streams.

    Args:
        answerer: the opened run. readout: its own.
    """

    def __init__(self, answerer: Answerer, readout: EmbeddingReadout) -> None:
        self.answerer, self.readout = answerer, readout

    @classmethod
    def open(cls, run: Path) -> Watcher:
        """Load a finished run with its encoder.

        Raises:
            UserError: it cannot be read, or its arm predicts no embeddings.
        """
        answerer = Answerer.open(run)
        if not isinstance(answerer.readout, EmbeddingReadout):
            raise UserError(
                f"run {run}: the {answerer.config.arm} arm predicts no embeddings to watch; give runs of the vljepa arm"
            )
        return cls(answerer, answerer.readout)

    def features(self, images: np.ndarray) -> Tensor:
        """Visual tokens (n, N, D) of uint8 RGB frames (n, H, W, 3)."""
        return self.answerer.encoder.encode(torch.tensor(images))

    def embeddings(self, features: Tensor, query: str) -> np.ndarray:
        """Normalised predictions (n, E) of the answer to `query` about each frame."""
        ids, mask = self.answerer.tokenizer.encode([query], self.answerer.config.tokenizer.max_query)
        rows = [torch.from_numpy(array).expand(len(features), -1) for array in (ids, mask)]
        return self.readout.image_vectors(Batch.without_target(features, *rows))


class Recording:
    """One stream and all that was computed of it.

    Args:
        batch: frames, and texts, computed together; 1 as they come one by one.

    Attributes:
        seconds: spent so far on each of `PARTS`.
    """

    def __init__(self, stream: Stream, watcher: Watcher, batch: int = 64) -> None:
        self.stream, self.watcher, self.batch = stream, watcher, batch
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._features: dict[int, Tensor] = {}
        self._embeddings: dict[int, np.ndarray] = {}
        self._texts: dict[Span, str] = {}

    def features(self, frames: Sequence[int]) -> Tensor:
        """Visual tokens, float32 (n, N, D)."""
        self._encode(frames)
        return torch.stack([self._features[frame] for frame in frames])

    def embeddings(self, frames: Sequence[int]) -> np.ndarray:
        """Normalised embeddings (n, E)."""
        missing = [frame for frame in frames if frame not in self._embeddings]
        for chunk in _chunks(missing, self.batch):
            features = self.features(chunk)
            with self._timed("predictor"):
                found = self.watcher.embeddings(features, self.stream.query)
            self._embeddings.update(zip(chunk, found, strict=True))
        return np.stack([self._embeddings[frame] for frame in frames])

    def speak(self, spans: Sequence[Span]) -> list[str]:
        """Texts of the mean embeddings of spans."""
        missing = list(dict.fromkeys(span for span in spans if span not in self._texts))
        for chunk in _chunks(missing, self.batch):
            means = np.stack([self.embeddings(range(first, last + 1)).mean(0) for first, last in chunk])
            with self._timed("decoder"):
                found = self.watcher.readout.decode(means)
            self._texts.update(zip(chunk, found, strict=True))
        return [self._texts[span] for span in spans]

    def _encode(self, frames: Sequence[int]) -> None:
        missing = sorted(set(frames) - self._features.keys())
        for chunk in _chunks(missing, self.batch):
            with self._timed("drawing"):
                images = np.concatenate([self.stream.draw(start, stop) for start, stop in _runs(chunk)])
            with self._timed("encoder"):
                found = self.watcher.features(images)
            self._features.update(zip(chunk, found, strict=True))

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - start


def _chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _runs(frames: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Increasing frames as runs (start, stop) of neighbours."""
    start = 0
    for row in range(1, len(frames) + 1):
        if row == len(frames) or frames[row] != frames[row - 1] + 1:
            yield frames[start], frames[row - 1] + 1
            start = row
