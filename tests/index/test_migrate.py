from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from archlab.cli import main
from archlab.errors import UserError
from archlab.index import migrate as module
from archlab.index.embedded import EmbeddedIndex
from archlab.index.migrate import migrate
from archlab.index.places import SINGLE
from archlab.index.protocol import CollectionSpec, Points, VectorIndex

Opened = Callable[[str], VectorIndex]
SPEC = CollectionSpec(width=4, model="digest", query="what is it?")


def points(count: int, seed: int = 0) -> Points:
    vectors = np.random.default_rng(seed).standard_normal((count, 4))
    return Points(
        [f"{row}" for row in range(count)], vectors, [{"n": row, "s": "ß", "t": [True]} for row in range(count)]
    )


@pytest.fixture
def pair(opened: Opened) -> tuple[VectorIndex, VectorIndex]:
    source, target = opened("embedded"), opened("server")
    source.create("big", SPEC).upsert(points(600))
    source.create("empty", CollectionSpec(width=2, distance="euclidean"))
    return source, target


def test_everything_arrives_with_specification_vectors_and_metadata(pair: tuple[VectorIndex, VectorIndex]) -> None:
    source, target = pair
    done = {one.name: one for one in migrate(source, target)}
    assert (done["big"].points, done["big"].sent, done["big"].verified) == (600, 600, 256)
    assert (done["empty"].points, done["empty"].sent, done["empty"].verified) == (0, 0, 0)
    for name in ("big", "empty"):
        assert target.open(name).spec == source.open(name).spec
    names = points(600).ids
    ours, theirs = source.open("big").fetch(names), target.open("big").fetch(names)
    assert ours.metadata == theirs.metadata
    np.testing.assert_allclose(ours.vectors, theirs.vectors, atol=1e-6)
    query = np.ones(4)
    assert [hit.id for hit in source.open("big").search(query)] == [hit.id for hit in target.open("big").search(query)]


def test_an_interrupted_migration_sends_only_what_is_missing_or_changed(
    pair: tuple[VectorIndex, VectorIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = pair
    collection = target.create("big", SPEC)
    upsert, calls = collection.upsert, []

    def cut_off(batch: Points) -> None:
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(len(batch))
        upsert(batch)

    monkeypatch.setattr(collection, "upsert", cut_off)
    with pytest.raises(KeyboardInterrupt):
        migrate(source, target)
    monkeypatch.undo()
    assert calls == [256, 256]
    changed = source.open("big").fetch(["7", "8"])
    source.open("big").upsert(Points(["7"], -changed.vectors[:1], changed.metadata[:1]))
    source.open("big").upsert(Points(["8"], changed.vectors[1:], [{"n": -8}]))
    assert collection.fetch(["7", "8"]).ids  # both or either may be there already
    again = {one.name: one for one in migrate(source, target)}["big"]
    assert 600 - 512 <= again.sent <= 600 - 512 + 2
    assert {one.name: one for one in migrate(source, target)}["big"].sent == 0
    assert target.open("big").fetch(["8"]).metadata == [{"n": -8}]


def test_points_that_only_the_target_has_are_an_error_not_a_success(pair: tuple[VectorIndex, VectorIndex]) -> None:
    source, target = pair
    target.create("big", SPEC).upsert(Points(["stranger"], np.ones((1, 4)), [{}]))
    with pytest.raises(UserError, match="'big': has 600 points, but 601 in the target"):
        migrate(source, target)


def test_a_target_that_keeps_something_else_is_noticed(
    pair: tuple[VectorIndex, VectorIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = pair
    collection = target.create("big", SPEC)
    upsert = collection.upsert
    monkeypatch.setattr(collection, "upsert", lambda batch: upsert(Points(batch.ids, -batch.vectors, batch.metadata)))
    with pytest.raises(UserError, match=r"point '\d+' differs in the target"):
        migrate(source, target)


def test_another_collection_of_the_same_name_is_not_touched(pair: tuple[VectorIndex, VectorIndex]) -> None:
    source, target = pair
    target.create("big", CollectionSpec(width=4, model="another"))
    with pytest.raises(UserError, match="'big': exists in the target with another specification"):
        migrate(source, target)
    assert target.open("big").count() == 0


def test_the_command_moves_one_folder_to_another_and_says_what_it_did(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with EmbeddedIndex(tmp_path / "old") as index:
        index.create("pictures", SPEC).upsert(points(3))
    assert main(["index", "migrate", str(tmp_path / "old"), str(tmp_path / "new")]) == 0
    assert capsys.readouterr().out == "pictures: 3 points, 3 of them sent now; 3 read back and equal\n"
    with EmbeddedIndex(tmp_path / "new") as index:
        assert index.open("pictures").count() == 3


def test_an_index_without_collections_or_that_is_missing_is_refused(tmp_path: Path, opened: Any) -> None:
    with pytest.raises(UserError, match="holds no collection"):
        migrate(opened("exact"), opened("exact"))
    with pytest.raises(UserError, match="missing: does not exist"):
        module.migrate_command(str(tmp_path / "missing"), str(tmp_path / "new"), spread=SINGLE)
    assert not (tmp_path / "missing").exists()
