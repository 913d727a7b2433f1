"""An index that another process has open; what every index promises is tested in `test_conformance`."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from tests.index.test_embedded import WIDTH, batch, holds

from archlab.errors import UserError
from archlab.index.embedded import EmbeddedIndex
from archlab.index.places import open_index
from archlab.index.process import IsolatedCollection, IsolatedIndex
from archlab.index.protocol import CollectionSpec, IndexUnavailable, Points, UnknownCollection

SPEC = CollectionSpec(width=2)
POINTS = Points(["a", "b"], np.array([[1, 0], [0, 1]], np.float32), [{}, {}])
EAST, NORTH = np.array([1.0, 0.0]), np.array([0.0, 1.0])


@pytest.fixture
def index(tmp_path: Path, loop: asyncio.AbstractEventLoop) -> Iterator[IsolatedIndex]:
    with IsolatedIndex(tmp_path / "index", loop) as index:
        yield index


@pytest.fixture
def collection(index: IsolatedIndex) -> IsolatedCollection:
    made = index.create("c", SPEC)
    made.upsert(POINTS)
    return made


def run(coroutine: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop) -> Any:
    return asyncio.run_coroutine_threadsafe(coroutine, loop).result()


def test_the_other_process_has_the_folder_open_and_lets_it_go(tmp_path: Path, loop: asyncio.AbstractEventLoop) -> None:
    with open_index(str(tmp_path / "index"), loop=loop) as index:
        assert isinstance(index, IsolatedIndex)
        assert index.pid != os.getpid()
        index.create("c", SPEC).upsert(POINTS)
        with pytest.raises(IndexUnavailable, match="is open elsewhere"):
            EmbeddedIndex(tmp_path / "index")
    with EmbeddedIndex(tmp_path / "index") as again:
        assert again.open("c").count() == 2


def test_a_coroutine_finds_what_a_thread_finds(collection: IsolatedCollection, loop: asyncio.AbstractEventLoop) -> None:
    async def find() -> list[list[str]]:
        found = await asyncio.gather(*(collection.find(vector, 1) for vector in [EAST, NORTH] * 50))
        return [[hit.id for hit in hits] for hits in found]

    assert run(find(), loop) == [["a"], ["b"]] * 50
    assert run(collection.find(EAST), loop) == collection.search(EAST)


def test_whoever_leaves_amid_a_search_leaves_no_answer_to_the_next_one(
    collection: IsolatedCollection, loop: asyncio.AbstractEventLoop
) -> None:
    async def leave() -> list[str]:
        for _ in range(20):
            left = asyncio.ensure_future(collection.find(EAST, 1))
            await asyncio.sleep(0)
            left.cancel()
        return [hit.id for hit in await collection.find(NORTH, 1)]

    assert run(leave(), loop) == ["b"]


def test_a_process_that_was_killed_is_replaced_and_nothing_is_lost(
    index: IsolatedIndex, collection: IsolatedCollection, loop: asyncio.AbstractEventLoop
) -> None:
    first = index.pid
    os.kill(first, signal.SIGSTOP)
    asked = asyncio.run_coroutine_threadsafe(collection.find(EAST), loop)
    os.kill(first, signal.SIGKILL)
    with pytest.raises(IndexUnavailable, match="has ended; ask again"):
        asked.result()
    with pytest.raises(IndexUnavailable):
        run(collection.find(EAST), loop)  # an event loop waits for no process to start
    assert index.opened("c") is None
    again = index.open("c")
    assert again.count() == 2
    assert index.pid != first
    assert [hit.id for hit in run(again.find(EAST, 1), loop)] == ["a"]
    with pytest.raises(IndexUnavailable):  # of the process before, which may have named another one alike
        collection.count()


def upserted(collection: IsolatedCollection, first: int) -> int:
    """Upsert one batch after the other until the process has ended; the first that was not acknowledged."""
    number = first
    with pytest.raises(IndexUnavailable, match="has ended; ask again"):  # noqa: PT012
        while True:
            collection.upsert(batch(50 * number, 50))
            number += 1
    return number


def test_kill_9_amid_upserts_loses_nothing_that_was_acknowledged(index: IsolatedIndex) -> None:
    """Of several threads, at moments that none of them knows; the collection goes on in the next process."""
    index.create("c", CollectionSpec(width=WIDTH))
    begun = [1000 * writer for writer in range(3)]
    acknowledged = list(begun)
    with ThreadPoolExecutor() as threads:
        for moment in np.random.default_rng(0).uniform(0, 0.5, 5):
            collection = index.open("c")
            writing = [threads.submit(upserted, collection, number) for number in acknowledged]
            Event().wait(moment)
            os.kill(index.pid, signal.SIGKILL)
            acknowledged = [one.result() for one in writing]
            collection = index.open("c")
            parts = [batch(50 * first, 50 * (last - first)) for first, last in zip(begun, acknowledged, strict=True)]
            assert all(holds(collection, part) for part in parts)
            more = collection.count() - sum(map(len, parts))
            assert 0 <= more <= 50 * len(parts)  # the batches that were not acknowledged are there or not


def test_a_scan_amid_which_the_process_ended_tells_nothing_of_another_one(
    index: IsolatedIndex, collection: IsolatedCollection
) -> None:
    scan = collection.scan(1)
    assert next(scan).ids == ["a"]
    os.kill(index.pid, signal.SIGKILL)
    while index.opened("c") is not None:
        Event().wait(0.005)
    other = index.open("c").scan(1)
    assert next(other).ids == ["a"]
    with pytest.raises(IndexUnavailable, match="has ended; ask again"):
        next(scan)
    assert next(other).ids == ["b"]


def test_what_is_sent_to_all_processes_of_a_service_does_not_end_it(
    index: IsolatedIndex, collection: IsolatedCollection
) -> None:
    first = index.pid
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(first, number)
        assert collection.count() == 2
    assert index.pid == first


def test_it_ends_where_the_process_that_asks_is_killed(tmp_path: Path) -> None:
    script = f"""
        import asyncio, os, signal
        from pathlib import Path
        from tests.index.test_process import IsolatedIndex, POINTS, SPEC

        async def main() -> None:
            def work() -> None:
                index = IsolatedIndex(Path({str(tmp_path / "index")!r}), loop)
                index.create("c", SPEC).upsert(POINTS)
                os.kill(os.getpid(), signal.SIGKILL)

            loop = asyncio.get_running_loop()
            await asyncio.to_thread(work)

        asyncio.run(main())
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], cwd=Path(__file__).parents[2])
    assert done.returncode == -signal.SIGKILL
    with FileLock(tmp_path / "index" / "lock", timeout=60):  # until it has noticed
        pass
    with EmbeddedIndex(tmp_path / "index") as index:
        assert index.open("c").count() == 2


def test_a_folder_that_cannot_be_opened_is_told_in_one_line_and_leaves_no_process(
    tmp_path: Path, loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    monkeypatch.setattr(IsolatedIndex, "_let_go", _noting(IsolatedIndex._let_go, started))
    with EmbeddedIndex(tmp_path / "index"), pytest.raises(UserError, match="is open elsewhere"):
        IsolatedIndex(tmp_path / "index", loop)
    (tmp_path / "file").write_text("")
    with pytest.raises((UserError, OSError)):
        IsolatedIndex(tmp_path / "file", loop)
    assert [process.returncode for process in started] == [0, 0]


def _noting(let_go: Any, started: list[subprocess.Popen[bytes]]) -> Any:
    def noting(index: IsolatedIndex) -> None:
        let_go(index)
        started.append(index._process)

    return noting


def test_what_is_wrong_there_is_told_here(index: IsolatedIndex, collection: IsolatedCollection) -> None:
    with pytest.raises(UserError, match="collection holds vectors of 2"):
        collection.search(np.ones(3))
    with pytest.raises(RuntimeError, match=r"(?s)in the process of the index:\n.*AttributeError"):
        index.call(collection._key, "no method")
    assert collection.count() == 2


def test_what_was_dropped_is_not_the_next_one_of_its_name(index: IsolatedIndex, collection: IsolatedCollection) -> None:
    index.drop("c")
    other = index.create("c", CollectionSpec(width=2, distance="dot"))
    with pytest.raises(UnknownCollection, match="closed or dropped"):
        collection.upsert(POINTS)
    assert other.count() == 0
    assert index.open("c").spec == other.spec != SPEC


def test_a_search_that_nobody_waits_for_is_not_asked(
    index: IsolatedIndex, collection: IsolatedCollection, loop: asyncio.AbstractEventLoop
) -> None:
    async def ask_and_leave() -> int:
        os.kill(index.pid, signal.SIGSTOP)
        left = [asyncio.ensure_future(collection.find(EAST)) for _ in range(100)]
        await asyncio.sleep(0.1)
        asked = len(index._link._answers)
        for one in left:
            one.cancel()
        await asyncio.sleep(0.1)
        left = [asyncio.ensure_future(collection.find(EAST)) for _ in range(100)]
        await asyncio.sleep(0.1)
        assert len(index._link._answers) == asked  # the other process still has those to do
        for one in left:
            one.cancel()
        os.kill(index.pid, signal.SIGCONT)
        assert [hit.id for hit in await collection.find(EAST, 1)] == ["a"]
        return asked

    assert run(ask_and_leave(), loop) == 8


def test_a_panic_of_the_engine_is_told_and_spoils_no_other_collection(
    tmp_path: Path, loop: asyncio.AbstractEventLoop
) -> None:
    with IsolatedIndex(tmp_path / "index", loop) as index:
        for name in ("damaged", "whole"):
            index.create(name, SPEC).upsert(POINTS)
    damaged = [path for path in (tmp_path / "index" / "damaged").rglob("status.dat") if path.parent.name == "vectors"]
    assert damaged
    for path in damaged:
        os.truncate(path, path.stat().st_size // 2)
    with IsolatedIndex(tmp_path / "index", loop) as index:
        with pytest.raises(IndexUnavailable, match="collection 'damaged': the engine failed"):
            index.open("damaged")
        assert index.open("whole").count() == 2


def test_no_module_comes_from_the_working_directory(
    tmp_path: Path, loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "random.py").write_text("raise SystemExit('the wrong one')")
    monkeypatch.chdir(tmp_path)
    with IsolatedIndex(tmp_path / "index", loop) as index:
        assert index.names() == []


def test_a_closed_index_answers_nothing_more(tmp_path: Path, loop: asyncio.AbstractEventLoop) -> None:
    index = IsolatedIndex(tmp_path / "index", loop)
    collection = index.create("c", SPEC)
    index.close()
    with pytest.raises(IndexUnavailable, match="was closed"):
        collection.count()
    assert index.opened("c") is None


def test_a_search_waits_for_no_graph_that_is_built(index: IsolatedIndex, loop: asyncio.AbstractEventLoop) -> None:
    collection = index.create("large", CollectionSpec(width=512))
    vectors = np.random.default_rng(0).standard_normal((5_200, 512)).astype(np.float32)
    for start in range(0, len(vectors), 2_600):
        rows = range(start, start + 2_600)
        collection.upsert(Points([str(row) for row in rows], vectors[rows], [{}] * len(rows)))
    building = loop.run_in_executor(None, collection.optimize)
    searches = 0
    while not building.done():
        assert run(collection.find(vectors[7], 1), loop)[0].id == "7"
        searches += 1
    assert collection.unoptimized() == 0
    assert searches > 10
