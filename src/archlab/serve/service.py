"""What one service is made of, from its start to its end."""

import asyncio
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import structlog

from archlab.compare.scores import ARMS
from archlab.config import CompareConfig, load
from archlab.errors import UserError
from archlab.index.places import Spread
from archlab.serve import problems
from archlab.serve.auth import ApiKey, KeyFile
from archlab.serve.batcher import BatchLimits
from archlab.serve.collections import Collections
from archlab.serve.engine import Operation
from archlab.serve.limits import Room, TokenBucket
from archlab.serve.logs import AuditLog
from archlab.serve.metrics import IndexCollector, Metrics, StateCollector
from archlab.serve.model import Model, ModelLimits
from archlab.serve.models import Models, rank
from archlab.serve.opening import check_served
from archlab.serve.problems import Problem, invalid
from archlab.serve.settings import WEIGHTS, Settings
from archlab.serve.streams.registry import Streams
from archlab.serve.uploads import ImageReader
from archlab.train.recipes import recipe_of

Result = TypeVar("Result")
_RETRY_LOADING = 5.0  # seconds


class Service:
    """The parts that requests share.

    Args:
        settings: of the service.

    Attributes:
        keys: API keys; None: only this machine is served.
        failure: that the models of the start could not be loaded; empty if they could.
        draining: whether the service is about to end.

    Raises:
        UserError: the file of keys or a folder is not what the settings say, or holds nothing that can be served.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.folders = named_folders(settings.models) if settings.models else shipped()
        for folder in self.folders.values():
            check_served(folder, settings.backend)
        self.keys = KeyFile(settings.api_keys) if settings.api_keys else None
        self.metrics = Metrics()
        share = settings.caller_share if self.keys else 1.0
        self.room = Room(settings.max_requests, settings.max_request_memory, share)
        self.streams = Streams(settings.max_streams, share)
        self.images = ImageReader(
            settings.decode_threads,
            most_bytes=settings.max_image,
            most_pixels=settings.max_pixels,
            observe=self.metrics.decode_seconds.observe,
        )
        batches = BatchLimits(
            queue=settings.queue_items, batch=settings.batch_items, timeout=settings.max_deadline_seconds
        )
        limits = ModelLimits(batches=batches, cached_texts=settings.cached_texts)
        self.models = Models(limits, self.metrics.observer, isolated=settings.isolated)
        spread = Spread(
            shards=settings.index_shards, replicas=settings.index_replicas, consistency=settings.index_consistency
        )
        self.collections = Collections(settings.index, self.metrics.index_seconds.observe, spread, settings.isolated)
        self.metrics.registry.register(IndexCollector(self.collections))
        self.metrics.registry.register(
            StateCollector(self.models, self.room, self.streams, lambda: not self.not_ready(), self.processes)
        )
        self.audit = AuditLog(settings.audit_file)
        self._buckets: dict[ApiKey, TokenBucket] = {}
        self.failure = ""
        self.draining = False
        self._starting: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    def not_ready(self) -> str:
        """Why no requests should come here; empty if they should."""
        if self.failure:
            return self.failure
        if self.draining:
            return "the service is about to end"
        if broken := [model.name for model in self.models.list() if not model.ready]:
            return f"{', '.join(broken)}: not answering"
        return "" if self.models.ready else self._progress()

    def processes(self) -> list[int]:
        """Those that it started and that run now; one that a model shares with the service is among them."""
        found = [*(model.pid for model in self.models.list()), self.collections.pid]
        return [pid for pid in found if pid is not None]

    @property
    def alive(self) -> bool:
        """Whether the process need not be replaced."""
        return self.models.alive and not self.failure

    def bucket(self, key: ApiKey) -> TokenBucket:
        """What the rate limit leaves a key; its own rate, where its entry has one."""
        found = self._buckets.get(key)
        if found is None:
            rate = key.requests_per_second or self.settings.requests_per_second
            self._buckets = {other: bucket for other, bucket in self._buckets.items() if other.id != key.id}
            found = self._buckets[key] = TokenBucket(rate, key.burst or self.settings.burst, time.monotonic)
        return found

    @property
    def starting(self) -> bool:
        """Whether the models of the start are being loaded."""
        return self._starting is not None and not self._starting.done()

    def start(self) -> None:
        """Begin to load the models; health can be asked for meanwhile."""
        self._starting = asyncio.create_task(self._start())

    def drain(self) -> None:
        """Not ready from now on; what comes all the same is still answered."""
        self.draining = True
        self.models.drain()

    async def unload(self, name: str) -> None:
        """Unload a model and forget its series, unless another one has its name by then; see `Models.unload`."""
        await self.models.unload(name)
        if name not in (model.name for model in self.models.list()):
            self.metrics.forget(name)

    async def finish(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Do work to its end even if the request that asked for it is given up."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Finish what is in progress and let everything go."""
        self.drain()
        if tasks := {*self._tasks, *([self._starting] if self._starting else ())}:
            await asyncio.wait(tasks)
        await self.models.close()
        await self.collections.close()
        self.images.close()
        self.audit.close()

    @contextmanager
    def using(self, name: str | None, operation: Operation, *, arm: str | None = None) -> Iterator[Model]:
        """The model for a request, which stays open inside the block.

        Args:
            name: None: the default one that can do it.
            operation: what it must be able to do.
            arm: that it must be of.

        Raises:
            Problem: there is none, or the one of that name is of another kind.
        """
        model = self.named(name) if name is not None else self._default(operation, arm)
        if not model.can(operation) or (arm is not None and model.arm != arm):
            able = [one.name for one in self.models.list() if one.can(operation)]
            rule = f"must be able to {operation.replace('_', ' ')}, as {', '.join(able) or 'no loaded model'} can"
            raise invalid("model", f"{rule}; {model.name!r} is a {model.arm} model")
        with model.use():
            yield model

    def named(self, name: str) -> Model:
        """The model of a name.

        Raises:
            Problem: there is none, or not yet.
        """
        try:
            return self.models.get(name)
        except UserError as error:
            if name in self.models.loading:
                raise self._loading() from None
            raise self._missing(f"{error}.") from None

    def _default(self, operation: Operation, arm: str | None) -> Model:
        able = [model for model in self.models.list() if model.can(operation) and arm in (None, model.arm)]
        defaults = set(self.models.defaults.values())
        best = min(able, key=lambda one: (one.name not in defaults, rank(one.arm)), default=None)
        if best is None:
            wanted = f"{arm} model" if arm else "model"
            raise self._missing(f"No {wanted} is loaded that can {operation.replace('_', ' ')}.")
        return best

    def _missing(self, detail: str) -> Problem:
        if self.starting:
            return self._loading()
        if self.failure:
            return Problem(problems.NOT_READY, f"{self.failure.capitalize()}.")
        return Problem(problems.NOT_FOUND, detail)

    def _progress(self) -> str:
        """How far the start has come."""
        done = len(self.models.list())
        now = "".join(f", now {name}" for name in self.models.loading)
        why = ", which is exported to ONNX first, once: about a minute" if self.models.exporting else ""
        return f"the models are being loaded: {done} of {len(self.folders)} are{now}{why}"

    def _loading(self) -> Problem:
        return Problem(problems.NOT_READY, "The model is being loaded; ask again.", retry_after=_RETRY_LOADING)

    async def _start(self) -> None:
        log = structlog.get_logger()
        try:
            await self.models.start(self.folders, backend=self.settings.backend)
        except Exception as error:
            if self.draining:  # it was given up
                return
            self.failure = "the models could not be loaded; the log says why"
            log.error("not started", reason=str(error), exc_info=not isinstance(error, UserError))
            return
        for model in self.models.list():
            log.info("model loaded", model=model.name, arm=model.arm, backend=model.backend)
        log.info("ready", models=len(self.models.list()))
        await self.collections.warm()


def shipped() -> dict[str, Path]:
    """Name -> folder of the checkpoints in `weights/` that answer: those with a tokenizer."""
    return {path.parent.name: path.parent for path in sorted(WEIGHTS.glob("*/tokenizer.json"))}


def named_folders(models: Sequence[str]) -> dict[str, Path]:
    """Name -> folder of entries `FOLDER` or `NAME=FOLDER`; a folder alone gives its own name.

    A comparison stands for its runs of the first seed: NAME-token and NAME-vljepa.

    Raises:
        UserError: two have the same name, or a folder does not exist.
    """
    folders: dict[str, Path] = {}
    for entry in models:
        name, given, folder = entry.rpartition("=")
        path = Path(folder).expanduser()
        name = name if given else path.resolve().name
        if not path.is_dir():
            raise UserError(f"model {entry!r}: {path} is no folder; give the folder of a finished run")
        found = {name: path}
        if recipe_of(path) == "comparison":
            seed = load(path / "config.yaml", CompareConfig).seeds[0]
            found = {f"{name}-{arm}": path / "runs" / f"{arm}-{seed}" for arm in ARMS}
        if taken := folders.keys() & found.keys():
            raise UserError(f"model {entry!r}: {min(taken)!r} is the name of another one; give NAME=FOLDER")
        folders |= found
    return folders
