"""Several models: loaded while others answer, replaced and unloaded without a failed request."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.serve.holding import EndlessExport, Gate, engine_of, run, settle

from archlab.errors import UserError
from archlab.serve import models as module
from archlab.serve.errors import EngineFailed, NotReady
from archlab.serve.model import Model
from archlab.serve.models import Models
from archlab.serve.vision_engine import VisionEngine

Runs = Callable[[str], Path]
QUERY = "what colour is it?"


async def loaded(runs: Runs, *arms: str) -> Models:
    models = Models()
    await models.start({arm: runs(arm) for arm in arms}, backend="torch")
    return models


def test_the_first_of_an_arm_is_its_default_and_vljepa_is_everybodys(talkative_run: Runs, text_run: Runs) -> None:
    async def main() -> None:
        models = await loaded(talkative_run, "token", "vljepa")
        await models.load("second", talkative_run("token"), backend="torch")
        await models.load("french", text_run("translation"))
        assert models.get().name == "vljepa"
        assert models.get(arm="token").name == "token"
        assert models.get(arm="translation").name == "french"
        assert models.get("second").arm == "token"
        assert [model.name for model in models.list()] == ["french", "second", "token", "vljepa"]
        models.set_default("second")
        assert models.get(arm="token").name == "second"
        await models.unload("second")
        assert models.defaults == {"token": "token", "vljepa": "vljepa", "translation": "french"}
        with models.use(arm="translation") as model:
            assert await model.translate(["dog cat"]) == ["chien chat"]
        await models.close()

    run(main)


def test_what_is_not_there_is_named_with_what_is(talkative_run: Runs) -> None:
    async def main() -> None:
        models = await loaded(talkative_run, "token")
        with pytest.raises(UserError, match=r"'other': is not loaded; loaded: token \(token\)"):
            models.get("other")
        with pytest.raises(UserError, match="no vljepa is loaded"):
            models.get(arm="vljepa")
        with pytest.raises(UserError, match="'token': is a token model, not a vljepa model"):
            models.get("token", arm="vljepa")
        with pytest.raises(UserError, match="is not loaded"):
            models.set_default("other")
        with pytest.raises(UserError, match="is not loaded"):
            await models.unload("other")
        await models.close()
        with pytest.raises(UserError, match="no model is loaded; none is loaded"):
            models.get()

    run(main)


def test_a_model_is_loaded_while_others_answer(
    talkative_run: Runs, pictures: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        models = await loaded(talkative_run, "token", "vljepa")
        opening, release, loop = asyncio.Event(), threading.Event(), asyncio.get_running_loop()
        plain = module.open_engine

        def slow(*given: Any) -> Any:
            loop.call_soon_threadsafe(opening.set)
            assert release.wait(60)
            return plain(*given)

        monkeypatch.setattr(module, "open_engine", slow)
        third = asyncio.create_task(models.load("third", talkative_run("token"), backend="torch"))
        await opening.wait()
        assert models.loading == ["third"]
        assert models.ready
        with pytest.raises(UserError, match="is being loaded already"):
            await models.load("third", talkative_run("token"))
        for arm in ("token", "vljepa"):
            with models.use(arm=arm) as model:
                assert (await model.speak(pictures[:1], [QUERY]))[0].steps
        release.set()
        assert (await third).name == "third"
        assert models.loading == []
        await models.close()

    run(main)


def test_a_model_that_cannot_be_loaded_leaves_the_one_of_its_name(talkative_run: Runs, tmp_path: Path) -> None:
    async def main() -> None:
        models = await loaded(talkative_run, "token")
        before = models.get("token")
        with pytest.raises(UserError):
            await models.load("token", tmp_path)
        assert models.get("token") is before
        assert models.ready
        assert models.loading == []
        await models.close()

    run(main)


def test_a_model_is_replaced_and_the_default_swapped_without_a_failed_request(
    talkative_run: Runs, pictures: list[np.ndarray]
) -> None:
    async def main() -> None:
        models = await loaded(talkative_run, "token")
        stop = False
        used: list[Any] = []

        async def ask() -> None:
            while not stop:
                with models.use(arm="token") as model:
                    used.append(model)
                    await asyncio.sleep(0)  # as when an image is decoded in between
                    assert (await model.speak(pictures[:1], [QUERY]))[0].steps
                    pieces = [piece async for piece in model.stream(pictures[0], QUERY)]
                    assert pieces

        callers = [asyncio.create_task(ask()) for _ in range(6)]
        first = models.get("token")
        await models.load("token", talkative_run("token"), backend="torch")
        replacement = models.get("token")
        await models.load("green", talkative_run("token"), backend="torch")
        models.set_default("green")
        await models.unload("token")
        while models.get("green") not in used:
            await asyncio.sleep(0.01)
        stop = True
        await asyncio.gather(*callers)
        assert first is not replacement
        assert not first.can("speak")  # the engine is let go
        await models.close()

    run(main)


def test_unloading_waits_for_requests_that_have_begun_and_takes_no_new_ones(
    talkative_run: Runs, pictures: list[np.ndarray]
) -> None:
    async def main() -> None:
        models = await loaded(talkative_run, "token")
        with models.use("token") as model:
            unloading = asyncio.create_task(models.unload("token"))
            await settle()
            with pytest.raises(UserError, match="is not loaded"):
                models.get("token")
            assert not unloading.done()
            assert (await model.speak(pictures[:1], [QUERY]))[0].steps
        await unloading
        await models.close()

    run(main)


def test_readiness_begins_with_the_last_model_of_the_start_and_ends_with_draining(
    talkative_run: Runs, pictures: list[np.ndarray]
) -> None:
    async def main() -> None:
        models = Models()
        assert not models.ready
        assert models.alive
        await models.load("token", talkative_run("token"), backend="torch")
        assert not models.ready  # more may come
        await models.start({"vljepa": talkative_run("vljepa")}, backend="torch")
        assert models.ready
        models.drain()
        assert not models.ready
        with models.use("token") as model:
            assert (await model.speak(pictures[:1], [QUERY]))[0].steps  # who comes all the same is answered
        with pytest.raises(NotReady):
            await models.load("late", talkative_run("token"))
        await models.close()

    run(main)


def test_a_model_that_is_loaded_too_late_is_let_go(talkative_run: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        models, release, plain = await loaded(talkative_run, "token"), threading.Event(), module.open_engine
        monkeypatch.setattr(module, "open_engine", lambda *given: release.wait(60) and plain(*given))
        late = asyncio.create_task(models.load("late", talkative_run("token"), backend="torch"))
        await settle()
        await models.close()
        release.set()
        with pytest.raises(NotReady):
            await late
        assert models.list() == []

    run(main)


def test_an_export_under_way_is_given_up_when_the_service_drains(
    talkative_run: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        models, export = Models(), EndlessExport(tmp_path, monkeypatch)
        loading = asyncio.create_task(models.load("vljepa", talkative_run("vljepa")))
        await export.begun()
        models.drain()
        with pytest.raises(NotReady, match="was given up"):
            await loading
        assert not export.runs
        assert models.list() == []

    run(main)


def test_one_broken_engine_turns_all_red(talkative_run: Runs, pictures: list[np.ndarray]) -> None:
    async def main() -> None:
        models = await loaded(talkative_run, "token", "vljepa")
        model = models.get("vljepa")
        engine = engine_of(model)
        engine.operations["speak"] = lambda *columns: 1 / 0
        engine.probe = lambda: 1 / 0
        with pytest.raises(Exception, match="has failed"):
            await model.speak(pictures[:1], [QUERY])
        assert not models.ready
        assert models.alive
        model._health.failures = 5
        assert not models.alive
        await models.close()

    run(main)


def test_an_engine_that_fails_its_first_probe_is_let_go(talkative_run: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    close = Model.close

    async def noted(model: Model) -> None:
        closed.append(model.name)
        await close(model)

    async def main() -> None:
        models = Models()
        monkeypatch.setattr(VisionEngine, "probe", lambda _: 1 / 0)
        monkeypatch.setattr(Model, "close", noted)
        with pytest.raises(EngineFailed):
            await models.load("broken", talkative_run("token"), backend="torch")
        assert (closed, models.list(), models.loading) == (["broken"], [], [])

    run(main)


def test_closing_finishes_every_request(talkative_run: Runs, pictures: list[np.ndarray]) -> None:
    async def main() -> None:
        models = await loaded(talkative_run, "token")
        engine = engine_of(models.get("token"))
        gate = Gate(engine, "speak")

        async def ask() -> str:
            with models.use("token") as model:
                return (await model.speak(pictures[:1], [QUERY]))[0].text

        asked = [asyncio.create_task(ask()) for _ in range(5)]
        await gate.occupied()
        closing = asyncio.create_task(models.close())
        await settle()
        assert not closing.done()
        gate.opened.set()
        await closing
        assert len(set(await asyncio.gather(*asked))) == 1

    run(main)


def test_what_a_loaded_model_holds_is_out_of_the_collectors_sight(talkative_run: Runs) -> None:
    async def main() -> None:
        gc.unfreeze()
        models = await loaded(talkative_run, "token")
        assert gc.get_freeze_count() > 10_000
        engine = engine_of(models.get("token"))
        assert not any(one is engine for one in gc.get_objects())
        await models.close()

    try:
        run(main)
    finally:
        gc.unfreeze()
