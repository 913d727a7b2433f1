"""All loaded models by name: loaded while others serve, replaced and unloaded without a failed request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from archlab.children import Children
from archlab.errors import UserError
from archlab.serve.batcher import Observer, Silent
from archlab.serve.computing import Computer, EngineThread
from archlab.serve.engine_process import open_isolated
from archlab.serve.errors import EngineFailed, NotReady
from archlab.serve.model import Model, ModelLimits
from archlab.serve.opening import Choice, open_engine, settle_memory

_PREFERRED = ("vljepa", "token")  # which arm answers where neither model nor arm is named
_LEAVING = "the service is shutting down; ask another instance"


def rank(arm: str) -> int:
    """Which arm goes first where none is named: the least."""
    return _PREFERRED.index(arm) if arm in _PREFERRED else len(_PREFERRED)


class Models:
    """Models by name, and a default for every arm.

    A request holds the model that it started with (`use`): swaps and unloading wait for it.

    Args:
        limits: of every model.
        observer: of the queue of the model with this name.
        isolated: whether every model has a process of its own; see `engine_process`.
    """

    def __init__(
        self,
        limits: ModelLimits | None = None,
        observer: Callable[[str], Observer] = lambda name: Silent(),
        *,
        isolated: bool = False,
    ) -> None:
        self._limits, self._observer, self._isolated = limits or ModelLimits(), observer, isolated
        self._models: dict[str, Model] = {}
        self._defaults: dict[str, str] = {}
        self._loading: set[str] = set()
        self._exports = Children()
        self._retiring: set[asyncio.Task[None]] = set()
        self._started = self._draining = False

    @property
    def ready(self) -> bool:
        """Whether requests should come here: all models of the start are loaded, all work, and nobody is draining."""
        return self._started and not self._draining and all(model.ready for model in self._models.values())

    @property
    def alive(self) -> bool:
        """Whether no model is beyond help."""
        return all(model.alive for model in self._models.values())

    @property
    def loading(self) -> list[str]:
        """Names of the models that are being loaded."""
        return sorted(self._loading)

    @property
    def exporting(self) -> bool:
        """Whether a model that is being loaded is exported first."""
        return self._exports.running > 0

    @property
    def defaults(self) -> dict[str, str]:
        """Arm -> name of its default."""
        return dict(self._defaults)

    async def start(self, folders: Mapping[str, Path], *, backend: Choice = "auto") -> None:
        """Load the models of the start, one after the other; ready afterwards."""
        for name, folder in folders.items():
            await self.load(name, folder, backend=backend)
        self._started = True

    async def load(self, name: str, folder: Path, *, backend: Choice = "auto") -> Model:
        """Load a model in a thread and let it take requests; one of the same name is replaced.

        The first of an arm is its default. The one that is replaced finishes what it has begun.

        Raises:
            UserError: the folder holds no model that can be served, or the name is being loaded already.
            NotReady: the service is draining.
        """
        if self._draining:
            raise NotReady(_LEAVING)
        if name in self._loading:
            raise UserError(f"model {name!r}: is being loaded already; wait, or take another name")
        self._loading.add(name)
        try:
            model = Model(name, await self._opened(name, folder, backend), self._limits, self._observer(name))
            try:
                await model.probe()
            except EngineFailed:
                await model.close()
                raise
            await asyncio.to_thread(settle_memory)
        finally:
            self._loading.discard(name)
        if self._draining:  # meanwhile
            await model.close()
            raise NotReady(_LEAVING)
        replaced = self._models.get(name)
        self._models[name] = model
        self._choose_defaults()
        if replaced is not None:
            self._retire(replaced)
        return model

    async def _opened(self, name: str, folder: Path, backend: Choice) -> Computer:
        if self._isolated:
            return await asyncio.to_thread(open_isolated, folder, backend, self._exports)
        return EngineThread(await asyncio.to_thread(open_engine, folder, backend, self._exports), name)

    async def unload(self, name: str) -> None:
        """Take no more requests for a model, wait until all it has are done, and let it go.

        Raises:
            UserError: there is no such model.
        """
        model = self.get(name)
        del self._models[name]
        self._choose_defaults()
        await self._retire(model)

    def get(self, name: str | None = None, *, arm: str | None = None) -> Model:
        """A model to look at; to ask it, hold it with `use`.

        Args:
            name: None: the default.
            arm: of the default; None: VL-JEPA's, else the token arm's, else any.

        Raises:
            UserError: there is none.
        """
        if name is None:
            arms = [arm] if arm is not None else sorted(self._defaults, key=rank)
            name = next((self._defaults[one] for one in arms if one in self._defaults), None)
            if name is None:
                raise UserError(f"model: no {arm or 'model'} is loaded; {self._known()}")
        model = self._models.get(name)
        if model is None:
            raise UserError(f"model {name!r}: is not loaded; {self._known()}")
        if arm is not None and model.arm != arm:
            raise UserError(f"model {name!r}: is a {model.arm} model, not a {arm} model; {self._known()}")
        return model

    @contextmanager
    def use(self, name: str | None = None, *, arm: str | None = None) -> Iterator[Model]:
        """The model of a request, which stays open inside the block whatever is loaded or unloaded meanwhile.

        Raises:
            UserError: see `get`.
        """
        with self.get(name, arm=arm).use() as model:
            yield model

    def set_default(self, name: str) -> None:
        """Make a model the default of its arm.

        Raises:
            UserError: there is no such model.
        """
        self._defaults[self.get(name).arm] = name

    def list(self) -> list[Model]:
        """All models in the order of their names."""
        return [self._models[name] for name in sorted(self._models)]

    def drain(self) -> None:
        """Not ready from now on; requests that come all the same are still answered. No model is loaded any more."""
        self._draining = True
        self._exports.end()

    async def close(self) -> None:
        """Drain, and wait until every request is done."""
        self.drain()
        for name in list(self._models):
            self._retire(self._models.pop(name))
        self._defaults.clear()
        await asyncio.gather(*self._retiring)

    def _retire(self, model: Model) -> asyncio.Task[None]:
        async def retire() -> None:
            await model.close()
            await asyncio.to_thread(settle_memory)

        task = asyncio.get_running_loop().create_task(retire())
        self._retiring.add(task)  # the event loop keeps weak references only
        task.add_done_callback(self._retiring.discard)
        return task

    def _choose_defaults(self) -> None:
        """Every arm has a default that is loaded: the one it had, or the one that was loaded first."""
        arms = {name: model.arm for name, model in self._models.items()}
        kept = {arm: name for arm, name in self._defaults.items() if arms.get(name) == arm}
        self._defaults = {arm: name for name, arm in reversed(arms.items())} | kept

    def _known(self) -> str:
        models = ", ".join(f"{model.name} ({model.arm})" for model in self.list())
        return f"loaded: {models}" if models else "none is loaded"
