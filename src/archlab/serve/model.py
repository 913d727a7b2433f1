"""One loaded model: an engine behind its queue, with a cache for embeddings of texts and an eye on its health.

Shape legend: B items, E embedding, C candidates.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from archlab.config import Section
from archlab.errors import UserError
from archlab.generate.settings import Settings
from archlab.rules import Count, Natural, Positive
from archlab.serve.batcher import Batcher, BatcherStats, BatchLimits, Observer
from archlab.serve.computing import Computer
from archlab.serve.engine import Attention, Operation, Spoken, softmax
from archlab.serve.errors import EngineFailed, NotReady
from archlab.serve.health import Health
from archlab.serve.query_cache import QueryCache

Result = TypeVar("Result")
_SHORTEST = 32  # characters; texts up to here are of one length to the queue


@dataclass(frozen=True, kw_only=True)
class ModelLimits(Section):
    """Bounds of one model."""

    batches: BatchLimits = field(default_factory=BatchLimits)
    cached_texts: Natural = 10_000
    """Embeddings of texts that are kept."""
    probe_every: Positive = 1.0
    """Seconds between two probes of an engine that has failed."""
    fatal: Count = 5
    """Failures in a row, a batch's and then of probes, after which the model counts as dead."""
    stall: Positive = 60.0
    """Seconds of one batch after which the model is not ready, and after twice as many dead."""


class Model:
    """One model; its methods are coroutines of one event loop.

    All of them take a `deadline` on the event loop's clock (None: the queue's default) and the `caller`, for fairness,
    and raise `UserError` where this kind of model does no such thing, `Overloaded`, `Expired`, `NotReady`, or
    `EngineFailed`. Images are uint8 (H, W, 3) of `image_size`.

    Args:
        name: what it is called here.
        computer: its engine.
        limits: of queue, cache and health.
        observer: told what the queue does.
    """

    def __init__(
        self, name: str, computer: Computer, limits: ModelLimits | None = None, observer: Observer | None = None
    ) -> None:
        self.name, self.about, self.limits = name, computer.about, limits or ModelLimits()
        self.cache = QueryCache(self.limits.cached_texts)
        self._computer: Computer | None = computer
        self._batcher = Batcher(self._compute, self.limits.batches, observer, _weight)
        self._health = Health(self.limits.fatal)
        self._healing: asyncio.Task[None] | None = None
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()

    @property
    def arm(self) -> str:
        """See `About`; as the properties below."""
        return self.about.arm

    @property
    def card(self) -> str:
        return self.about.card

    @property
    def digest(self) -> str:
        return self.about.digest

    @property
    def backend(self) -> str:
        return self.about.backend

    @property
    def image_size(self) -> int:
        return self.about.image_size

    @property
    def width(self) -> int:
        return self.about.width

    @property
    def pid(self) -> int | None:
        """The process that it computes in; None: it is closed."""
        return None if self._computer is None else self._computer.pid

    @property
    def shares_space(self) -> bool:
        """Whether its vectors of texts and of images can be compared: those that it learned to choose by can."""
        return self.about.scale is not None

    @property
    def stats(self) -> BatcherStats:
        """What the queue does and has done."""
        return self._batcher.stats

    @property
    def ready(self) -> bool:
        """Whether the engine answers: the last batch worked, and the one in flight does not hang."""
        return self._health.ready and self._busy() < self.limits.stall

    @property
    def alive(self) -> bool:
        """Whether the engine may still heal; where not, the process should be replaced."""
        return self._health.alive and self._busy() < 2 * self.limits.stall

    def can(self, operation: Operation) -> bool:
        """Whether this kind of model does that."""
        return self._computer is not None and operation in self._computer.operations

    @contextmanager
    def use(self) -> Iterator[Model]:
        """Keep the model open inside the block; `close` waits for all who use it."""
        self._users += 1
        self._unused.clear()
        try:
            yield self
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()

    async def embed_texts(self, texts: Sequence[str], *, deadline: float | None = None, caller: str = "") -> np.ndarray:
        """Vectors (B, E) of unit length, float32; those of texts asked for lately come from the cache."""
        self._check("embed_texts")
        vectors = self.cache.look_up(texts)
        missing = [text for text in dict.fromkeys(texts) if text not in vectors]
        computed = await self._ask("embed_texts", [(text,) for text in missing], missing, deadline, caller)
        new = dict(zip(missing, computed, strict=True))
        self.cache.keep(new)
        vectors |= new
        return np.stack([vectors[text] for text in texts]) if texts else np.empty((0, self.width), np.float32)

    async def embed_images(
        self, images: Sequence[np.ndarray], queries: Sequence[str], *, deadline: float | None = None, caller: str = ""
    ) -> np.ndarray:
        """Vectors (B, E) of unit length, float32, of images under a query each."""
        rows = list(zip(images, queries, strict=True))
        vectors = await self._ask("embed_images", rows, queries, deadline, caller)
        return np.stack(vectors) if vectors else np.empty((0, self.width), np.float32)

    async def choose(
        self,
        images: Sequence[np.ndarray],
        queries: Sequence[str],
        candidates: Sequence[Sequence[str]],
        *,
        deadline: float | None = None,
        caller: str = "",
    ) -> list[np.ndarray]:
        """Probabilities (C,) over each item's own candidates."""
        if any(not own for own in candidates):
            raise UserError("candidates: must not be empty; give at least one answer to choose from")
        if self.about.scale is None:
            rows = list(zip(images, queries, map(tuple, candidates), strict=True))
            return await self._ask("choose", rows, queries, deadline, caller)
        with self.use():  # two calls of the queue, which must not be closed in between
            texts = list(dict.fromkeys(text for own in candidates for text in own))
            embedded = await self.embed_texts(texts, deadline=deadline, caller=caller)
            vectors = dict(zip(texts, embedded, strict=True))
            seen = await self.embed_images(images, queries, deadline=deadline, caller=caller)
        return [
            softmax(self.about.scale * np.stack([vectors[text] for text in own]) @ image)
            for image, own in zip(seen, candidates, strict=True)
        ]

    async def speak(
        self, images: Sequence[np.ndarray], queries: Sequence[str], *, deadline: float | None = None, caller: str = ""
    ) -> list[Spoken]:
        """What the model says, decoded greedily."""
        return await self._ask("speak", list(zip(images, queries, strict=True)), queries, deadline, caller)

    async def speak_vectors(
        self, vectors: Sequence[np.ndarray], *, deadline: float | None = None, caller: str = ""
    ) -> list[Spoken]:
        """What embeddings (E,) of images say (VL-JEPA): embed every frame, and decode when the meaning has changed."""
        return await self._ask("speak_vectors", [(vector,) for vector in vectors], None, deadline, caller)

    def stream(
        self, image: np.ndarray, query: str, *, deadline: float | None = None, caller: str = ""
    ) -> AsyncGenerator[str, None]:
        """Pieces of the text that `speak` gives, as they are decoded; closing the iterator stops the decoding."""
        return self._pieces("begin", (image, query), [query], deadline, caller)

    def complete(
        self,
        prompt: str,
        settings: Settings,
        stop: Sequence[str] = (),
        *,
        deadline: float | None = None,
        caller: str = "",
    ) -> AsyncGenerator[str, None]:
        """Pieces of a continuation, as they are decoded, up to where one of the strings `stop` would begin."""
        return self._pieces("complete", (prompt, settings, stop), None, deadline, caller)

    async def _pieces(
        self,
        operation: Operation,
        row: tuple[Any, ...],
        lengths: Sequence[str] | None,
        deadline: float | None,
        caller: str,
    ) -> AsyncGenerator[str, None]:
        with self.use():
            (pieces,) = await self._ask(operation, [row], lengths, deadline, caller)
            while True:
                (piece,) = await self._ask("advance", [(pieces,)], None, deadline, caller)
                if piece is None:
                    return
                if piece:
                    yield piece

    async def attention(
        self, image: np.ndarray, query: str, *, deadline: float | None = None, caller: str = ""
    ) -> Attention:
        """The weights of every layer and head of the trunk."""
        (maps,) = await self._ask("attention", [(image, query)], None, deadline, caller)
        return maps

    async def flops(
        self,
        image: np.ndarray,
        query: str,
        candidates: Sequence[str] | None,
        *,
        deadline: float | None = None,
        caller: str = "",
    ) -> int:
        """Operations of one answer, to the best of the candidates or in the model's own words."""
        (count,) = await self._ask("flops", [(image, query, candidates)], None, deadline, caller)
        return int(count)

    async def translate(self, texts: Sequence[str], *, deadline: float | None = None, caller: str = "") -> list[str]:
        """Translations of texts."""
        return await self._ask("translate", [(text,) for text in texts], texts, deadline, caller)

    async def sentiment(self, texts: Sequence[str], *, deadline: float | None = None, caller: str = "") -> np.ndarray:
        """Probabilities (B, classes) in the order of `about.labels`."""
        found = await self._ask("sentiment", [(text,) for text in texts], texts, deadline, caller)
        return np.stack(found) if found else np.empty((0, len(self.about.labels)), np.float32)

    async def probe(self) -> None:
        """Let the engine compute something small.

        Raises:
            EngineFailed: it does not.
        """
        if self._computer is None:
            raise NotReady(f"model {self.name!r}: is closed")
        await self._watched(self._computer.probe(), self._health.not_healed)

    async def close(self) -> None:
        """Wait for all who use the model, finish what is queued, and let the engine go."""
        await self._unused.wait()
        await self._batcher.close()
        computer, self._computer = self._computer, None
        if computer is not None:
            await computer.close()

    def _check(self, operation: Operation) -> None:
        if self._computer is not None and operation not in self._computer.operations:
            raise UserError(
                f"model {self.name!r}: the {self.arm} model cannot {operation.replace('_', ' ')}; it can "
                f"{', '.join(sorted(name.replace('_', ' ') for name in self._computer.operations))}"
            )

    async def _ask(
        self,
        operation: Operation,
        rows: Sequence[tuple[Any, ...]],
        lengths: Sequence[str] | None,
        deadline: float | None,
        caller: str,
    ) -> list[Any]:
        """Results of an operation on rows of arguments; `lengths`: texts that must be of similar length in a batch."""
        self._check(operation)
        groups = [(operation, 0)] * len(rows) if lengths is None else [(operation, _length(text)) for text in lengths]
        work = list(zip(groups, rows, strict=True))
        try:
            return await self._batcher.submit(work, deadline=deadline, caller=caller)
        except EngineFailed:
            if self._healing is None or self._healing.done():
                self._healing = asyncio.get_running_loop().create_task(self._heal())
            raise

    async def _compute(self, group: tuple[Operation, int], rows: list[tuple[Any, ...]]) -> Sequence[Any]:
        assert self._computer is not None, "the queue is closed before the engine"
        columns = [list(column) for column in zip(*rows, strict=True)]
        return await self._watched(self._computer.ask(group[0], columns), self._health.failed)

    async def _watched(self, work: Awaitable[Result], failed: Callable[[], None]) -> Result:
        try:
            result = await work
        except UserError:
            raise
        except Exception as error:
            failed()
            raise EngineFailed(
                f"model {self.name!r} has failed; ask again, it is being looked after", self.limits.probe_every
            ) from error
        self._health.worked()
        return result

    async def _heal(self) -> None:
        while not self._health.ready:
            try:
                await self.probe()
            except EngineFailed:
                await asyncio.sleep(self.limits.probe_every)
            except NotReady:  # closed meanwhile
                return

    def _busy(self) -> float:
        """Seconds since the batch in flight began."""
        since = self.stats.computing_since
        return 0.0 if since is None else asyncio.get_running_loop().time() - since


def _weight(group: tuple[Operation, int], row: tuple[Any, ...]) -> int:
    """As how many items a row counts: one that chooses is scored once for each of its candidates."""
    return len(row[-1]) if group[0] == "choose" else 1


def _length(text: str) -> int:
    """Power of two of characters that the text fits in: padding at most doubles what is computed."""
    return max(_SHORTEST, 1 << (len(text) - 1).bit_length()) if text else _SHORTEST
