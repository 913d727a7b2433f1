"""The embedded index on the disk: what survives, who may open it, and the graph."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from archlab.errors import UserError
from archlab.index import embedded
from archlab.index.embedded import EmbeddedCollection, EmbeddedIndex
from archlab.index.exact import ExactIndex
from archlab.index.filters import Equals, Range
from archlab.index.protocol import Collection, CollectionSpec, IndexUnavailable, Points

WIDTH = 8


def batch(start: int, count: int, width: int = WIDTH) -> Points:
    """Points named by their numbers, each vector drawn from its number alone."""
    numbers = range(start, start + count)
    vectors = np.array([np.random.default_rng(number).standard_normal(width) for number in numbers])
    return Points([str(number) for number in numbers], vectors, [{"n": number} for number in numbers])


def shards(place: Path) -> list[Path]:
    return sorted((place / "index" / "c").glob("shard-*"))


def holds(collection: Collection, points: Points) -> bool:
    found = collection.fetch(points.ids)
    lengths = np.linalg.norm(points.vectors, axis=1, keepdims=True)
    return (
        found.ids == points.ids
        and found.metadata == list(points.metadata)
        and np.allclose(found.vectors, points.vectors / lengths, atol=1e-6)
    )


def test_a_closed_index_is_the_same_when_it_is_opened_again(tmp_path: Path) -> None:
    spec = CollectionSpec(width=WIDTH, model="digest", model_name="runs/x", query="what is it?")
    with EmbeddedIndex(tmp_path / "index") as index:
        index.create("c", spec).upsert(batch(0, 20))
    with EmbeddedIndex(tmp_path / "index") as index:
        assert index.names() == ["c"]
        assert index.open("c").spec == spec
        assert holds(index.open("c"), batch(0, 20))


# Acknowledges every batch on a line of its own, and is killed while it writes.
_WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.index.test_embedded import WIDTH, batch
from archlab.index import embedded
from archlab.index.protocol import CollectionSpec
embedded._FLUSH_EVERY = int(sys.argv[3])
collection = embedded.EmbeddedIndex(Path(sys.argv[1])).create("c", CollectionSpec(width=WIDTH))
for number in range(10_000):
    collection.upsert(batch(50 * number, 50))
    if number % 3 == 2:
        collection.delete([str(50 * number)])
    print(number, flush=True)
"""


@pytest.mark.parametrize(("batches", "flush_every"), [(1, 10**9), (7, 10**9), (12, 200), (13, 1)])
def test_kill_9_amid_upserts_loses_nothing_that_was_acknowledged(
    tmp_path: Path, batches: int, flush_every: int
) -> None:
    """With the log alone, with flushes now and then, and with one after every batch."""
    folder = tmp_path / "index"
    arguments = [sys.executable, "-c", _WRITER, str(folder), str(Path(__file__).parents[2]), str(flush_every)]
    writer = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    acknowledged = [int(writer.stdout.readline()) for _ in range(batches)][-1]
    writer.send_signal(signal.SIGKILL)  # whatever it is doing now
    acknowledged = max([acknowledged, *(int(line) for line in writer.stdout.read().splitlines())])
    assert writer.wait() == -signal.SIGKILL
    with EmbeddedIndex(folder) as index:
        collection = index.open("c")
        for number in range(acknowledged + 1):
            points = batch(50 * number, 50)
            if number % 3 == 2:
                assert collection.fetch(points.ids[:1]).ids == []
                points = Points(points.ids[1:], points.vectors[1:], points.metadata[1:])
            assert holds(collection, points)
        more = collection.count() - sum(50 - (number % 3 == 2) for number in range(acknowledged + 1))
        assert 0 <= more <= 50  # the batch that was not acknowledged is there or not
        collection.upsert(batch(10**6, 5))
        assert holds(collection, batch(10**6, 5))


def test_an_index_that_is_open_is_refused_to_another_process_with_the_remedy(tmp_path: Path) -> None:
    code = f"from archlab.index.places import open_index; open_index({str(tmp_path / 'index')!r})"
    with EmbeddedIndex(tmp_path / "index"):
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        with pytest.raises(IndexUnavailable, match=r"is open elsewhere.*close it there.*archlab index migrate"):
            EmbeddedIndex(tmp_path / "index")
    assert other.returncode == 1
    assert "IndexUnavailable: index" in other.stderr
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_lock_outlives_the_thread_that_took_it_and_ends_with_close(tmp_path: Path) -> None:
    made: list[EmbeddedIndex] = []
    thread = threading.Thread(target=lambda: made.append(EmbeddedIndex(tmp_path)))
    thread.start()
    thread.join()
    with pytest.raises(UserError, match="is open elsewhere"):
        EmbeddedIndex(tmp_path)
    made[0].close()
    EmbeddedIndex(tmp_path).close()


def test_a_folder_of_something_else_is_never_made_an_index(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="exists and holds no index; name another folder"):
        EmbeddedIndex(tmp_path)
    with pytest.raises(UserError, match="exists and holds no index"):
        EmbeddedIndex(tmp_path / "thesis.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_dropped_collection_leaves_the_disk_and_its_objects_say_so(tmp_path: Path) -> None:
    with EmbeddedIndex(tmp_path / "index") as index:
        collection = index.create("c", CollectionSpec(width=WIDTH))
        index.drop("c")
        assert [path.name for path in (tmp_path / "index").iterdir()] == ["lock"]
        with pytest.raises(UserError, match="'c': was closed or dropped"):
            collection.count()
    for ask in (lambda: index.open("c"), lambda: index.create("c", CollectionSpec(width=1)), lambda: index.drop("c")):
        with pytest.raises(IndexUnavailable, match="was closed; open it again"):
            ask()


def test_what_an_interrupted_creation_or_removal_left_is_cleared(tmp_path: Path) -> None:
    with EmbeddedIndex(tmp_path / "index") as index:
        index.create("c", CollectionSpec(width=WIDTH)).upsert(batch(0, 3))
    (tmp_path / "index" / ".d.partial" / "shard-1").mkdir(parents=True)
    (tmp_path / "index" / "c" / "shard-7" / "segments").mkdir(parents=True)
    with EmbeddedIndex(tmp_path / "index") as index:
        assert index.names() == ["c"]
        assert index.open("c").count() == 3
        assert not (tmp_path / "index" / ".d.partial").exists()
        assert not (tmp_path / "index" / "c" / "shard-7").exists()


@pytest.mark.parametrize("content", ["", "{}", "[]", "{"])
def test_a_damaged_specification_is_named(tmp_path: Path, content: str) -> None:
    with EmbeddedIndex(tmp_path / "index") as index:
        index.create("c", CollectionSpec(width=WIDTH))
    (tmp_path / "index" / "c" / "collection.json").write_text(content)
    with (
        EmbeddedIndex(tmp_path / "index") as index,
        pytest.raises(UserError, match=r"collection\.json cannot be read"),
    ):
        index.open("c")


def test_a_damaged_shard_is_one_clear_line(tmp_path: Path) -> None:
    with EmbeddedIndex(tmp_path / "index") as index:
        index.create("c", CollectionSpec(width=WIDTH)).upsert(batch(0, 3))
    for path in shards(tmp_path)[0].glob("segments/*/segment.json"):
        path.write_text("{")
    with EmbeddedIndex(tmp_path / "index") as index, pytest.raises(IndexUnavailable, match="'c': the engine failed"):
        index.open("c")


# --- the graph

MANY = 3000


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of 3000 points with a graph, closed; and the same in a copy of each test that changes it."""
    folder = tmp_path_factory.mktemp("built") / "index"
    with EmbeddedIndex(folder, indexing_threshold=10) as index:
        collection = index.create("c", CollectionSpec(width=WIDTH))
        points = batch(0, MANY)
        kinds = [{"n": number, "kind": "rare" if number % 50 == 0 else "common"} for number in range(MANY)]
        collection.upsert(Points(points.ids, points.vectors, kinds))
        assert collection.unoptimized() == MANY
        collection.optimize()
        assert collection.unoptimized() == 0
        assert collection.count() == MANY
    return folder


def test_the_graph_finds_what_exact_search_finds(built: Path) -> None:
    """Recall@10 over 100 queries, unfiltered and under a condition that leaves 2 % of the points."""
    oracle = ExactIndex().create("c", CollectionSpec(width=WIDTH))
    with EmbeddedIndex(built) as index:
        collection = index.open("c")
        for part in collection.scan():
            oracle.upsert(part)
        assert collection.unoptimized() == 0  # searched through the graph
        for where, least in ((None, 0.98), (Equals("kind", "rare"), 1.0), (Range("n", gte=100, lt=200), 1.0)):
            found = 0
            for seed in range(100):
                query = np.random.default_rng(10**9 + seed).standard_normal(WIDTH)
                ours, exact = (one.search(query, 10, where) for one in (collection, oracle))
                assert len(ours) == 10
                found += len({hit.id for hit in ours} & {hit.id for hit in exact})
            assert found / 1000 >= least


def test_what_changes_while_the_graph_is_built_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads and writes go on: the process that builds works on a copy, and what came meanwhile is taken over."""
    build = EmbeddedCollection._build_graph
    seen: list[list[str]] = []

    def meanwhile(self: EmbeddedCollection, shard: Path) -> None:
        build(self, shard)
        collection.upsert(Points(["new", "7"], batch(5000, 2).vectors, [{"colour": "red"}, {"n": -7}]))
        assert collection.delete(["3", "4"]) == 2
        assert collection.delete_where(Range("n", gte=100, lt=110)) == 10
        seen.append([hit.id for hit in collection.search(batch(5000, 1).vectors[0], 1)])

    monkeypatch.setattr(EmbeddedCollection, "_build_graph", meanwhile)
    with EmbeddedIndex(tmp_path / "index", indexing_threshold=10) as index:
        collection = index.create("c", CollectionSpec(width=WIDTH))
        collection.upsert(batch(0, 1000))
        collection.optimize()
        assert seen == [["new"]]
        assert collection.unoptimized() < 10
    with EmbeddedIndex(tmp_path / "index") as index:
        collection = index.open("c")
        assert collection.count() == 1000 + 1 - 2 - 10
        assert collection.fetch(["new", "7", "3", "105"]).metadata == [{"colour": "red"}, {"n": -7}]
        assert collection.search(batch(5000, 1).vectors[0], 1, Equals("colour", "red"))[0].id == "new"
        assert len(shards(tmp_path)) == 1


def test_a_failed_graph_leaves_the_collection_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded.sys, "executable", "/bin/false")
    with EmbeddedIndex(tmp_path / "index", indexing_threshold=10) as index:
        collection = index.create("c", CollectionSpec(width=WIDTH))
        collection.upsert(batch(0, 500))
        with pytest.raises(IndexUnavailable, match=r"its graph could not be built .*nothing was changed"):
            collection.optimize()
        collection.upsert(batch(500, 5))
        assert collection.count() == 505
        assert len(shards(tmp_path)) == 1


_OPTIMIZER = """
import os, sys
from pathlib import Path
from archlab.index import embedded
def killed(self, shard):
    os.kill(os.getpid(), 9)
embedded.EmbeddedCollection._build_graph = killed
embedded.EmbeddedIndex(Path(sys.argv[1]), indexing_threshold=10).open("c").optimize()
"""


def test_kill_9_while_the_graph_is_built_costs_nothing(tmp_path: Path) -> None:
    with EmbeddedIndex(tmp_path / "index") as index:
        index.create("c", CollectionSpec(width=WIDTH)).upsert(batch(0, 500))
    done = subprocess.run([sys.executable, "-c", _OPTIMIZER, str(tmp_path / "index")])
    assert done.returncode == -signal.SIGKILL
    assert len(shards(tmp_path)) == 2
    with EmbeddedIndex(tmp_path / "index") as index:
        assert holds(index.open("c"), batch(0, 500))
        assert len(shards(tmp_path)) == 1


def test_an_index_that_is_closed_gives_up_the_graph_that_it_builds(tmp_path: Path) -> None:
    ended: list[BaseException] = []

    def build() -> None:
        try:
            collection.optimize()
        except BaseException as error:
            ended.append(error)

    with EmbeddedIndex(tmp_path / "index", indexing_threshold=10) as index:
        collection = index.create("c", CollectionSpec(width=64))
        assert isinstance(collection, EmbeddedCollection)
        for start in range(0, 8000, 2000):
            collection.upsert(batch(start, 2000, 64))
        thread = threading.Thread(target=build)
        thread.start()
        while not collection._builders._running:
            thread.join(0.01)
    thread.join()
    assert isinstance(ended[0], IndexUnavailable)
    with EmbeddedIndex(tmp_path / "index") as index:
        assert index.open("c").count() == 8000
        assert len(shards(tmp_path)) == 1


def test_few_vectors_need_no_graph(tmp_path: Path) -> None:
    with EmbeddedIndex(tmp_path / "index") as index:
        collection = index.create("c", CollectionSpec(width=WIDTH))
        collection.upsert(batch(0, 20))
        before = shards(tmp_path)
        collection.optimize()
    assert shards(tmp_path) == before


def test_a_field_is_indexed_once_and_no_more_than_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded.qdrant, "MOST_FIELDS", 3)
    with EmbeddedIndex(tmp_path / "index") as index:
        collection = index.create("c", CollectionSpec(width=WIDTH))
        points = batch(0, 5)
        collection.upsert(
            Points(points.ids, points.vectors, [{"_note": "x", "n": 1, f"field {row}": "x"} for row in range(5)])
        )
        collection.upsert(points)
        assert isinstance(collection, EmbeddedCollection)
        with collection._using() as shard:
            assert set(shard.info().payload_schema) == {"metadata.n", 'metadata."field 0"', 'metadata."field 1"'}
        assert collection.count(Equals("field 1", "x")) == 0  # the point was replaced
        collection.upsert(Points(points.ids, points.vectors, [{f"field {row}": "x"} for row in range(5)]))
        assert collection.count(Equals("field 4", "x")) == 1  # a condition on a field without index holds as well


def test_searches_and_writes_from_several_threads_agree(tmp_path: Path) -> None:
    with EmbeddedIndex(tmp_path / "index") as index:
        collection = index.create("c", CollectionSpec(width=WIDTH))

        def write(part: int) -> None:
            for start in range(0, 100, 10):
                collection.upsert(batch(1000 * part + start, 10))
                assert collection.search(np.ones(WIDTH), 5)

        threads = [threading.Thread(target=write, args=(part,)) for part in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert collection.count() == 400
        assert all(holds(collection, batch(1000 * part, 100)) for part in range(4))
    assert os.listdir(tmp_path / "index" / "c")
