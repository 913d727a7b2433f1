"""What every backend promises, tested on each; the exact one is the oracle of the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.index.strategies import METADATA, conditions, items

from archlab.errors import UserError
from archlab.index.exact import ExactIndex
from archlab.index.filters import Equals, Exists, Not, parse
from archlab.index.metadata import Metadata
from archlab.index.protocol import Collection, CollectionSpec, Points, VectorIndex

EMPTY = np.empty((0, 2), np.float32)


def one(name: str, vector: list[float], **metadata: Any) -> Points:
    return Points([name], np.array([vector]), [metadata])


def ids(collection: Collection, vector: list[float], **how: Any) -> list[str]:
    return [hit.id for hit in collection.search(np.array(vector), **how)]


def everything(collection: Collection) -> Points:
    batches = list(collection.scan(3))
    names = [name for batch in batches for name in batch.ids]
    return collection.fetch(sorted(names))


def test_the_nearest_points_come_first_with_their_similarity_and_metadata(pets: Collection) -> None:
    hits = pets.search(np.array([2.0, 0.0]), k=3)
    assert [hit.id for hit in hits] == ["a", "b", "c"]
    np.testing.assert_allclose([hit.score for hit in hits], [1, 0.5**0.5, 0], atol=1e-6)
    assert hits[0].metadata == {"kind": "cat", "age": 3, "tame": True, "tags": ["grey", "small"]}


@pytest.mark.parametrize(
    ("distance", "expected"),
    [
        ("cosine", {"near": 1, "far": 1, "side": 0}),
        ("dot", {"far": 6, "near": 2, "side": 0}),
        ("euclidean", {"near": -1, "far": -1, "side": -(5**0.5)}),
    ],
)
def test_scores_are_higher_for_what_is_nearer(index: VectorIndex, distance: Any, expected: dict[str, float]) -> None:
    collection = index.create("c", CollectionSpec(width=2, distance=distance))
    collection.upsert(Points(["near", "far", "side"], np.array([[1, 0], [3, 0], [0, 1]]), [{}, {}, {}]))
    hits = collection.search(np.array([2.0, 0.0]))
    np.testing.assert_allclose([hit.score for hit in hits], [expected[hit.id] for hit in hits], atol=1e-6)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert len(hits) == 3


def test_equal_scores_come_in_the_order_of_their_ids(index: VectorIndex) -> None:
    collection = index.create("c", CollectionSpec(width=3))
    names = ["z", "b", "ä", "y", "a"]
    collection.upsert(Points(names, np.tile([[0.3, 0.5, 0.1]], (5, 1)), [{}] * 5))
    assert ids(collection, [1, 0, 0]) == sorted(names)
    cut = collection.search(np.array([1.0, 0, 0]), k=3)
    assert len({hit.score for hit in cut}) == 1
    assert len({hit.id for hit in cut}) == 3


def test_a_point_of_the_same_id_is_replaced_whole(pets: Collection) -> None:
    pets.upsert(one("a", [0, -1], colour="red"))
    assert pets.count() == 4
    assert pets.fetch(["a"]).metadata == [{"colour": "red"}]
    assert ids(pets, [0, -1], k=1) == ["a"]


def test_of_equal_ids_in_one_batch_the_last_counts(index: VectorIndex) -> None:
    collection = index.create("c", CollectionSpec(width=2))
    collection.upsert(Points(["a", "b", "a"], np.array([[1, 0], [0, 1], [-1, 0]]), [{"n": 1}, {}, {"n": 2}]))
    assert collection.count() == 2
    assert collection.fetch(["a"]).metadata == [{"n": 2}]
    np.testing.assert_array_equal(collection.fetch(["a"]).vectors, [[-1, 0]])


def test_deleted_points_are_gone_and_counted_once(pets: Collection) -> None:
    assert pets.delete(["a", "nobody", "a"]) == 1
    assert pets.delete(["a"]) == 0
    assert ids(pets, [1, 0]) == ["b", "c", "d"]


def test_points_that_meet_a_condition_are_deleted(pets: Collection) -> None:
    assert pets.delete_where(Equals("tame", True)) == 2
    assert pets.delete_where(Equals("tame", True)) == 0
    assert everything(pets).ids == ["c", "d"]


def test_an_empty_collection_answers_everything_with_nothing(index: VectorIndex) -> None:
    collection = index.create("empty", CollectionSpec(width=2))
    collection.upsert(Points([], EMPTY, []))
    assert collection.search(np.array([1.0, 0])) == []
    assert collection.search(np.array([1.0, 0]), where=Exists("a")) == []
    assert (collection.count(), collection.count(Not(Exists("a"))), collection.unoptimized()) == (0, 0, 0)
    assert list(collection.scan()) == []
    assert collection.fetch(["a"]).vectors.shape == collection.fetch([]).vectors.shape == (0, 2)
    assert collection.delete(["a"]) == collection.delete([]) == collection.delete_where(Exists("a")) == 0
    collection.optimize()


def test_fetch_keeps_the_order_asked_for_and_leaves_out_what_is_not_there(pets: Collection) -> None:
    found = pets.fetch(["d", "nobody", "a"])
    assert found.ids == ["d", "a"]
    np.testing.assert_allclose(found.vectors, [[-1, 0], [1, 0]])
    assert found.vectors.dtype == np.float32


def test_a_scan_gives_every_point_once_with_its_vector_if_asked(pets: Collection) -> None:
    batches = list(pets.scan(3))
    assert [len(batch) for batch in batches] == [3, 1]
    assert sorted(name for batch in batches for name in batch.ids) == ["a", "b", "c", "d"]
    vectors = {name: vector for batch in batches for name, vector in zip(batch.ids, batch.vectors, strict=True)}
    np.testing.assert_allclose(vectors["b"], [0.5**0.5] * 2, rtol=1e-6)
    bare = list(pets.scan(2, vectors=False))
    assert [batch.vectors.shape for batch in bare] == [(2, 0), (2, 0)]
    assert sorted(one["kind"] for batch in bare for one in batch.metadata)[0] == "cat"  # type: ignore[type-var]


def test_collections_are_listed_opened_and_dropped_by_name(index: VectorIndex) -> None:
    spec = CollectionSpec(width=3, distance="dot", model="abc", model_name="runs/x", query="what is it?")
    index.create("second", spec)
    index.create("first", CollectionSpec(width=1)).upsert(one("a", [1]))
    assert index.names() == ["first", "second"]
    assert index.open("second").spec == spec
    assert index.open("first").count() == 1
    index.drop("first")
    assert index.names() == ["second"]
    assert index.create("first", CollectionSpec(width=1)).count() == 0


def test_what_was_opened_is_at_hand_until_it_is_dropped(index: VectorIndex) -> None:
    assert index.opened("c") is None
    index.create("c", CollectionSpec(width=2))
    assert index.opened("c") is index.open("c")
    index.drop("c")
    assert index.opened("c") is None


def test_mistakes_with_names_are_one_clear_line(index: VectorIndex) -> None:
    index.create("pictures", CollectionSpec(width=1))
    with pytest.raises(UserError, match="'pictures': exists already; drop it"):
        index.create("pictures", CollectionSpec(width=1))
    with pytest.raises(UserError, match="'picture': does not exist; did you mean 'pictures'"):
        index.open("picture")
    with pytest.raises(UserError, match="'zzz': does not exist; create it"):
        index.drop("zzz")
    for name in ("", "../up", ".hidden", "a/b", "é", "x" * 65):
        with pytest.raises(UserError, match="must be 1 to 64 letters"):
            index.create(name, CollectionSpec(width=1))


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (one("a", [1, 2, 3]), "vector of 3 numbers: the collection holds vectors of 2"),
        (Points(["a"], np.array([1.0, 2.0]), [{}]), "vector of 2 numbers: the collection holds"),
        (one("a", [1, float("nan")]), "not finite"),
        (one("a", [1, float("inf")]), "not finite"),
        (one("a", [1e300, 0]), "not finite"),
        (one("a", [2e18, 0]), r"is longer than 1e\+18"),
        (one("a", [0, 0]), "length zero: has no direction"),
        (one("", [1, 0]), "point id '': must be a text of 1 to 512"),
        (one("x" * 513, [1, 0]), "must be a text of 1 to 512"),
        (one("\ud800", [1, 0]), "half a surrogate pair"),
        (Points([1], np.array([[1, 0]]), [{}]), "point id 1: must be a text"),  # type: ignore[list-item]
        (Points(["a", "b"], np.array([[1, 0]]), [{}]), "2 ids, 1 vectors and 1 metadata"),
        (Points(["a"], [["x", "y"]], [{}]), "must be rows of numbers"),  # type: ignore[arg-type]
        (one("a", [1, 0], n=None), "'n': holds None; it must be text, a number"),
        (one("a", [1, 0], n={"deep": 1}), r"it must be text, a number, true or false, or a list of these"),
        (one("a", [1, 0], n=[["nested"]]), "it must be text, a number"),
        (one("a", [1, 0], n=float("nan")), r"must be a number within \+-2\^53"),
        (one("a", [1, 0], n=2**53 + 1), r"must be a number within \+-2\^53"),
        (one("a", [1, 0], n="\udfff"), "it must be text"),
        (one("a", [1, 0], n="é" * 20_000), "40008 bytes of metadata as JSON: must be at most 40000"),
        (one("a", [1, 0], **{'a"b': 1}), "must be 1 to 128 characters without"),
        (one("a", [1, 0], **{"": 1}), "must be 1 to 128 characters without"),
    ],
)
def test_what_cannot_be_kept_is_refused_and_nothing_of_the_batch_is_stored(
    pets: Collection, points: Points, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        pets.upsert(points)
    assert pets.count() == 4


@pytest.mark.parametrize(
    ("vector", "k", "message"),
    [
        ([1.0], 1, "vector of 1 numbers"),
        ([0, 0], 1, "length zero"),
        ([1, float("nan")], 1, "not finite"),
        ([1, 0], 0, "k=0: must lie between 1 and 10000"),
        ([1, 0], 10_001, "k=10001"),
    ],
)
def test_a_search_that_cannot_be_is_refused(pets: Collection, vector: list[float], k: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        pets.search(np.array(vector), k)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("kind=cat", "a"),
        ("kind!=cat", "bcd"),
        ("kind=cat,wolf", "ac"),
        ("kind=Çıtçıt 🐈", "d"),
        ("kind", "abcd"),
        ("tags", "a"),
        ("!tags", "bcd"),
        ("tags=small", "a"),
        ("age", "abc"),
        ("age=3", "a"),
        ("age=3.0", "a"),
        ('age="3"', ""),
        ("age>3", "bc"),
        ("age>=3", "abc"),
        ("age<3.5", "a"),
        ("age<=3.5", "ab"),
        ("age=3,7", "ac"),
        ("tame=true", "ab"),
        ("tame=false", "cd"),
        ("tame=1", ""),
        ('tame="true"', ""),
        ("nobody=1", ""),
        ("nobody!=1", "abcd"),
    ],
)
def test_conditions_mean_the_same_everywhere(pets: Collection, where: str, expected: str) -> None:
    condition = parse(where)
    assert "".join(sorted(ids(pets, [1, 1], where=condition))) == expected
    assert pets.count(condition) == len(expected)


# --- against the oracle

WIDTH = 4


@st.composite
def stored(draw: st.DrawFn) -> Points:
    count = draw(st.integers(0, 12))
    names = [f"point {row} ß" for row in range(count)]
    seed = draw(st.integers(0, 2**32 - 1))
    vectors = np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)
    if count > 3:  # ties
        vectors[1] = vectors[0]
    return Points(names, vectors, [draw(METADATA) for _ in range(count)])


@pytest.mark.parametrize("backend", ["embedded", "server"])
@pytest.mark.parametrize("distance", ["cosine", "dot", "euclidean"])
def test_every_backend_answers_as_the_oracle_does(
    backend: str, distance: Any, opened: Callable[[str], VectorIndex]
) -> None:
    """Filtered searches, counts and what is stored; small collections are searched exactly by all."""
    spec = CollectionSpec(width=WIDTH, distance=distance)
    tested = opened(backend).create("c", spec)

    @settings(max_examples=40, suppress_health_check=list(HealthCheck))
    @given(points=stored(), data=st.data())
    def check(points: Points, data: st.DataObject) -> None:
        tested.delete(everything(tested).ids)
        oracle = ExactIndex().create("c", spec)
        for collection in (tested, oracle):
            collection.upsert(points)
        ours, theirs = everything(tested), everything(oracle)
        assert ours.ids == theirs.ids
        assert ours.metadata == theirs.metadata
        assert [_types(one) for one in ours.metadata] == [_types(one) for one in theirs.metadata]
        np.testing.assert_allclose(ours.vectors, theirs.vectors, rtol=1e-6, atol=1e-7)
        for _ in range(4):
            where = data.draw(conditions(points.metadata))  # type: ignore[arg-type]
            assert tested.count(where) == oracle.count(where), where
            query = data.draw(st.integers(0, 99).map(lambda seed: np.random.default_rng(seed).normal(size=WIDTH)))
            found, expected = (collection.search(query, 20, where) for collection in (tested, oracle))
            assert {hit.id for hit in found} == {hit.id for hit in expected}, where
            np.testing.assert_allclose(
                [hit.score for hit in found], [hit.score for hit in expected], rtol=1e-5, atol=1e-5
            )

    check()


def _types(metadata: Metadata) -> dict[str, Any]:
    return {name: [type(one) for one in items(value)] for name, value in metadata.items()}
