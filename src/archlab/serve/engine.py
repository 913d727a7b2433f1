"""What computes answers: the contract between a model's queue and what was opened from a folder.

Shape legend: B items, C candidates, E embedding, L layers, H heads, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

Operation = Literal[
    "embed_texts",
    "embed_images",
    "choose",
    "speak",
    "speak_vectors",
    "begin",
    "complete",
    "advance",
    "attention",
    "flops",
    "translate",
    "sentiment",
]
Backend = Literal["torch", "onnx", "onnx-int8"]


@dataclass(frozen=True)
class Spoken:
    """Text that a model wrote.

    Attributes:
        text: without special tokens.
        confidence: geometric mean of the probabilities of its tokens, [EOS] included, from 0 to 1.
        steps: tokens decoded, [EOS] included.
    """

    text: str
    confidence: float
    steps: int


@dataclass(frozen=True)
class Attention:
    """Where the trunk looked.

    Attributes:
        tokens: what each token is, T: patches "[row, column]", then the query's.
        maps: weights from every token (row) to every token, float32 (L, H, T, T); rows sum to 1.
        visual: how many of the tokens are visual; they come first.
    """

    tokens: list[str]
    maps: np.ndarray
    visual: int


@dataclass(frozen=True, kw_only=True)
class About:
    """What an opened model is.

    Attributes:
        arm: "token" or "vljepa" for runs about images and words, else "encoder", "translation", "sentiment" or
            "characters".
        card: what its training wrote about it, Markdown.
        digest: hash of its weights.
        backend: what computes.
        image_size: side of the images that it reads; 0: it reads none.
        width: E; 0: it embeds nothing.
        scale: learned inverse temperature of cosines, of a model that chooses by them; None: it chooses otherwise.
        labels: classes of "sentiment", in the order of its probabilities; "characters" that a text may hold.
        context: characters that "characters" reads at most; 0: any number.
    """

    arm: str
    card: str
    digest: str
    backend: Backend
    image_size: int = 0
    width: int = 0
    scale: float | None = None
    labels: tuple[str, ...] = ()
    context: int = 0


class Engine(Protocol):
    """Computes batches, one at a time and always on the same thread.

    Attributes:
        about: what it is.
        operations: by name; each takes columns, B values of every argument, and gives B results. Any exception but
            `UserError` means that the engine has failed.

            embed_texts(texts) -> (E,) of unit length
            embed_images(images, queries) -> (E,) of unit length; an image is uint8 (H, W, 3) of `image_size`
            choose(images, queries, candidates) -> probabilities (C,) of the item's own candidates
            speak(images, queries) -> `Spoken`
            speak_vectors(vectors) -> `Spoken`, of vectors that `embed_images` gave (VL-JEPA)
            begin(images, queries) -> an iterator over pieces of text
            complete(prompts, settings, stops) -> an iterator over pieces of the continuation; see `TextGenerator`
            advance(iterators) -> the next piece, or None at the end
            attention(images, queries) -> `Attention`
            flops(images, queries, candidates) -> operations of `choose`, or without candidates (None) of `speak`, with
                nothing remembered
            translate(texts) -> text
            sentiment(texts) -> probabilities (classes,)
    """

    @property
    def about(self) -> About: ...

    @property
    def operations(self) -> Mapping[Operation, Callable[..., Iterable[Any]]]: ...

    def probe(self) -> None:
        """Compute something small; raises where the engine is broken."""
        ...


def advance(streams: Sequence[Iterator[str]]) -> list[str | None]:
    """The next piece of each stream, or None at its end."""
    return [next(stream, None) for stream in streams]


def softmax(scores: np.ndarray) -> np.ndarray:
    """Probabilities (..., C) of scores (..., C)."""
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)
