"""A loaded model: many callers at once, its cache, its health, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.serve.holding import Gate, run, settle

from archlab.errors import UserError
from archlab.serve.batcher import BatchLimits
from archlab.serve.computing import EngineThread
from archlab.serve.errors import EngineFailed, Expired, NotReady
from archlab.serve.model import Model, ModelLimits
from archlab.serve.vision_engine import VisionEngine

Opened = Callable[[str], VisionEngine]
ARMS = pytest.mark.parametrize("arm", ["token", "vljepa"])
QUERIES = ["what colour is it?", "how many?", "", "a ring?", "a", "b c", "is there a red ring above the star?"]
PATIENT = ModelLimits(probe_every=60.0)  # what heals within a test was healed by the first probe
HASTY = ModelLimits(probe_every=0.001, fatal=3)


@ARMS
def test_many_callers_get_what_they_would_get_alone(engine: Opened, pictures: list[np.ndarray], arm: str) -> None:
    async def main() -> None:
        plain, model = engine(arm), Model(arm, EngineThread(engine(arm)))
        candidates = [["red", "blue"], ["yes", "no", "two"]] * 3 + [["a circle"]]

        async def one(row: int) -> None:
            image, query, own = [pictures[row]], [QUERIES[row]], [candidates[row]]
            caller = str(row % 3)
            chosen, spoken, vectors, pieces = await asyncio.gather(
                model.choose(image, query, own, caller=caller),
                model.speak(image, query, caller=caller),
                model.embed_images(image, query, caller=caller),
                gathered(model, pictures[row], QUERIES[row]),
            )
            np.testing.assert_allclose(chosen[0], plain.choose(image, query, own)[0], atol=1e-4)
            np.testing.assert_allclose(vectors, plain.embed_images(image, query), atol=1e-5)
            assert spoken[0].text == plain.speak(image, query)[0].text == pieces.rstrip()

        with np.errstate(all="raise"):
            for row in range(7):  # the plain engine is no part of the race
                plain.choose([pictures[row]], [QUERIES[row]], [candidates[row]])
        await asyncio.gather(*(one(row) for row in range(7)))
        assert model.stats.batches < model.stats.items
        assert model.stats.queued == 0
        await model.close()

    run(main)


async def gathered(model: Model, image: np.ndarray, query: str) -> str:
    return "".join([piece async for piece in model.stream(image, query)])


@ARMS
def test_texts_are_embedded_once_and_then_remembered(engine: Opened, arm: str) -> None:
    async def main() -> None:
        plain, model = engine(arm), Model(arm, EngineThread(engine(arm)))
        texts = ["a red circle", "two stars", "a red circle"]
        expected = plain.embed_texts(texts)
        np.testing.assert_allclose(await model.embed_texts(texts), expected, atol=1e-5)
        assert (model.cache.hits, model.cache.misses, model.stats.items) == (0, 3, 2)
        np.testing.assert_allclose(await model.embed_texts(texts[:2]), expected[:2], atol=1e-5)
        assert (model.cache.hits, model.stats.items) == (2, 2)
        assert (await model.embed_texts([])).shape == (0, model.width)
        assert (await model.embed_images([], [])).shape == (0, model.width)
        await model.close()

    run(main)


def test_candidates_of_vljepa_come_from_the_cache_too(engine: Opened, pictures: list[np.ndarray]) -> None:
    async def main() -> None:
        model = Model("m", EngineThread(engine("vljepa")))
        first = await model.choose(pictures[:2], QUERIES[:2], [["red", "blue"], ["blue", "green"]])
        assert len(model.cache) == 3
        again = await model.choose(pictures[:2], QUERIES[:2], [["red", "blue"], ["blue", "green"]])
        assert model.cache.hits == 3
        for one, other in zip(first, again, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)
        await model.close()

    run(main)


def test_what_a_model_cannot_do_is_refused_by_name(engine: Opened, pictures: list[np.ndarray]) -> None:
    async def main() -> None:
        model = Model("m", EngineThread(engine("token")))
        assert model.can("choose")
        assert not model.can("translate")
        with pytest.raises(UserError, match="'m': the token model cannot translate; it can advance, attention"):
            await model.translate(["a"])
        with pytest.raises(UserError, match="cannot speak vectors"):
            await model.speak_vectors([np.zeros(3, np.float32)])
        with pytest.raises(UserError, match="candidates: must not be empty"):
            await model.choose(pictures[:1], ["a"], [[]])
        await model.close()

    run(main)


def test_attention_and_speech_of_vectors_go_through_the_queue(engine: Opened, pictures: list[np.ndarray]) -> None:
    async def main() -> None:
        plain, model = engine("vljepa"), Model("m", EngineThread(engine("vljepa")))
        maps = await model.attention(pictures[0], QUERIES[0])
        np.testing.assert_allclose(maps.maps, plain.attention(pictures[:1], QUERIES[:1])[0].maps, atol=1e-6)
        vectors = await model.embed_images(pictures[:2], QUERIES[:2])
        assert [one.text for one in await model.speak_vectors(list(vectors))] == [
            one.text for one in plain.speak(pictures[:2], QUERIES[:2])
        ]
        await model.close()

    run(main)


def test_closing_a_stream_stops_the_decoding(engine: Opened, pictures: list[np.ndarray]) -> None:
    async def main() -> None:
        served = engine("token")
        arm: Any = served._answerer.readout.arm
        calls: list[int] = []
        arm.backbone.trunk.register_forward_hook(lambda *given: calls.append(1))
        model = Model("m", EngineThread(served))
        stream = model.stream(pictures[0], QUERIES[0])
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        decoded = len(calls)
        assert decoded < served.speak(pictures[:1], QUERIES[:1])[0].steps
        await model.close()

    run(main)


def test_a_stream_whose_caller_leaves_in_the_middle_of_a_step_stops_and_frees_the_model(
    engine: Opened, pictures: list[np.ndarray]
) -> None:
    async def main() -> None:
        served = engine("token")
        gate = Gate(served, "advance")
        model = Model("m", EngineThread(served))
        reading = asyncio.create_task(gathered(model, pictures[0], QUERIES[0]))
        await gate.occupied()
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading
        gate.opened.set()
        await model.close()
        assert gate.calls == 1

    run(main)


def test_similar_lengths_are_computed_together_and_others_apart(engine: Opened) -> None:
    async def main() -> None:
        served = engine("vljepa")
        gate = Gate(served, "embed_texts")
        model = Model("m", EngineThread(served))
        seen: list[list[str]] = []
        operations: Any = served.operations
        held = operations["embed_texts"]
        operations["embed_texts"] = lambda texts: [seen.append(texts), held(texts)][1]
        first = asyncio.create_task(model.embed_texts(["first"]))
        await gate.occupied()
        short, long = [f"word {i}" for i in range(3)], [f"{'many words ' * 20}{i}" for i in range(3)]
        others = [
            asyncio.create_task(model.embed_texts([text])) for pair in zip(short, long, strict=True) for text in pair
        ]
        await settle()
        gate.opened.set()
        await asyncio.gather(first, *others)
        assert sorted(map(sorted, seen[1:])) == sorted([sorted(short), sorted(long)])
        await model.close()

    run(main)


def test_a_failure_reaches_its_caller_without_its_reason_and_turns_readiness_red_until_a_probe_works(
    engine: Opened, pictures: list[np.ndarray]
) -> None:
    async def main() -> None:
        served = engine("token")
        operations: Any = served.operations
        plain = operations["speak"]
        operations["speak"] = lambda *columns: 1 / 0
        gate = Gate(served, "embed_images")
        served.embed_images = operations["embed_images"]  # type: ignore[method-assign]  # what a probe calls
        model = Model("m", EngineThread(served), PATIENT)
        await asyncio.to_thread(lambda: None)
        with pytest.raises(EngineFailed) as failed:
            await model.speak(pictures[:1], QUERIES[:1])
        assert "division" not in str(failed.value)
        assert isinstance(failed.value.__cause__, ZeroDivisionError)
        assert not model.ready
        assert model.alive
        await gate.occupied()  # the probe
        assert not model.ready
        gate.opened.set()
        while not model.ready:
            await asyncio.sleep(0.001)
        operations["speak"] = plain
        assert (await model.speak(pictures[:1], QUERIES[:1]))[0].steps
        await model.close()

    run(main)


def test_a_batch_that_fails_call_by_call_is_one_failure(engine: Opened, pictures: list[np.ndarray]) -> None:
    async def main() -> None:
        served = engine("token")
        operations: Any = served.operations
        operations["speak"] = lambda *columns: 1 / 0
        model = Model("m", EngineThread(served), HASTY)
        asked = [model.speak(pictures[:1], QUERIES[:1], caller=str(number)) for number in range(8)]
        for found in await asyncio.gather(*asked, return_exceptions=True):
            assert isinstance(found, EngineFailed)
        assert model.alive
        await model.close()

    run(main)


def test_failures_in_a_row_end_in_death_and_a_success_in_between_does_not(
    engine: Opened, pictures: list[np.ndarray]
) -> None:
    async def main() -> None:
        served = engine("token")
        broken = True

        def probe() -> None:
            if broken:
                raise RuntimeError("device lost")

        served.probe = probe  # type: ignore[method-assign]
        operations: Any = served.operations
        plain = operations["speak"]
        operations["speak"] = lambda *columns: 1 / 0
        model = Model("m", EngineThread(served), HASTY)
        with pytest.raises(EngineFailed):
            await model.speak(pictures[:1], QUERIES[:1])
        while model.alive:  # probes go on
            await asyncio.sleep(0.001)
        assert not model.ready
        broken = False
        while not model.ready:  # and it heals, if nobody has replaced it meanwhile
            await asyncio.sleep(0.001)
        assert model.alive
        operations["speak"] = plain
        await model.speak(pictures[:1], QUERIES[:1])
        await model.close()

    run(main)


def test_what_the_caller_did_wrong_is_no_failure_of_the_engine(engine: Opened, pictures: list[np.ndarray]) -> None:
    async def main() -> None:
        served = engine("token")

        def refuse(*columns: Any) -> Any:
            raise UserError("image: is upside down; turn it")

        operations: Any = served.operations
        operations["speak"] = refuse
        model = Model("m", EngineThread(served))
        with pytest.raises(UserError, match="upside down"):
            await model.speak(pictures[:1], QUERIES[:1])
        assert model.ready
        await model.close()

    run(main)


def test_an_engine_that_hangs_is_not_ready_and_later_dead(engine: Opened, pictures: list[np.ndarray]) -> None:
    async def main() -> None:
        served = engine("token")
        gate = Gate(served, "speak")
        model = Model("m", EngineThread(served), ModelLimits(stall=100.0))
        asked = asyncio.create_task(model.speak(pictures[:1], QUERIES[:1]))
        await gate.occupied()
        since = model.stats.computing_since
        assert since is not None
        assert model.ready
        for ago, ready, alive in ((99, True, True), (101, False, True), (201, False, False)):
            model.stats.computing_since = asyncio.get_running_loop().time() - ago
            assert (model.ready, model.alive) == (ready, alive)
        gate.opened.set()
        await asked
        assert model.ready
        await model.close()

    run(main)


def test_a_deadline_and_a_caller_reach_the_queue(engine: Opened, pictures: list[np.ndarray]) -> None:
    async def main() -> None:
        served = engine("token")
        gate = Gate(served, "speak")
        model = Model("m", EngineThread(served), ModelLimits(batches=BatchLimits(batch=1)))
        now = asyncio.get_running_loop().time()
        first = asyncio.create_task(model.speak(pictures[:1], QUERIES[:1], caller="a"))
        await gate.occupied()
        with pytest.raises(Expired):
            await model.speak(pictures[:1], QUERIES[:1], deadline=now + 0.001)
        done: list[str] = []

        async def ask(caller: str) -> None:
            await model.speak(pictures[:1], QUERIES[:1], caller=caller)
            done.append(caller)

        tasks = [asyncio.create_task(ask("a")) for _ in range(3)]
        await settle()
        tasks.append(asyncio.create_task(ask("b")))
        await settle()
        gate.opened.set()
        await asyncio.gather(first, *tasks)
        assert done[:2] in (["a", "b"], ["b", "a"])
        await model.close()

    run(main)


def test_closing_waits_for_who_uses_the_model_and_for_the_queue(engine: Opened, pictures: list[np.ndarray]) -> None:
    async def main() -> None:
        model = Model("m", EngineThread(engine("token")))
        with model.use():
            closing = asyncio.create_task(model.close())
            await settle()
            assert (await model.speak(pictures[:1], QUERIES[:1]))[0].steps  # still open
            assert not closing.done()
        await closing
        with pytest.raises(NotReady):
            await model.speak(pictures[:1], QUERIES[:1])
        assert not model.can("speak")

    run(main)


def test_choosing_by_embeddings_holds_the_model_between_its_two_calls(
    engine: Opened, pictures: list[np.ndarray]
) -> None:
    async def main() -> None:
        served = engine("vljepa")
        gate = Gate(served, "embed_texts")
        model = Model("m", EngineThread(served))
        chosen = asyncio.create_task(model.choose(pictures[:1], QUERIES[:1], [["a", "b"]]))
        await gate.occupied()
        closing = asyncio.create_task(model.close())
        await settle()
        gate.opened.set()
        assert (await chosen)[0].sum() == pytest.approx(1)
        await closing

    run(main)
