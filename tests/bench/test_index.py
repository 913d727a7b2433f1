from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from archlab.bench import index
from archlab.bench.index import EMBEDDED, EXACT, Size, bench_index
from archlab.index.exact import ExactIndex
from archlab.index.protocol import CollectionSpec, Points

TINY = Size(points=300, width=8, queries=5)


def test_both_are_measured_and_exact_search_is_the_measure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clock = itertools.count().__next__
    results = bench_index(TINY, rounds=4, out=tmp_path / "index.json", clock=lambda: float(clock()))
    assert json.loads((tmp_path / "index.json").read_text()) == results
    for name in (EXACT, EMBEDDED):
        found = results["backends"][name]
        for title in ("all", "filtered"):
            assert found[title]["recall"] == 1.0  # few vectors: both compare them all
            assert found[title]["p50_ms"] == found[title]["p95_ms"] == 1000  # one tick of this clock
        assert found["write_seconds"] > 0
    shown = capsys.readouterr().out
    assert "Vector search, 300 x 8, 10 hits" in shown
    assert "embedded" in shown


def test_recall_counts_what_a_backend_misses() -> None:
    vectors, queries = index.draw(TINY)
    whole, half = (ExactIndex().create("c", CollectionSpec(width=8)) for _ in range(2))
    names = [str(row) for row in range(len(vectors))]
    whole.upsert(Points(names, vectors, [{}] * len(names)))
    half.upsert(Points(names[::2], vectors[::2], [{}] * len(names[::2])))
    found = index.measure({EXACT: whole, EMBEDDED: half}, queries, None, 2, itertools.count().__next__)
    assert found[EXACT]["recall"] == 1
    assert 0.2 < found[EMBEDDED]["recall"] < 0.8


def test_vectors_and_queries_are_the_same_in_every_run_and_lie_around_the_same_centres() -> None:
    vectors, queries = index.draw(TINY)
    for first, second in zip((vectors, queries), index.draw(TINY), strict=True):
        np.testing.assert_array_equal(first, second)
    assert (vectors.shape, queries.shape) == ((300, 8), (5, 8))
    assert not np.array_equal(vectors[:5], queries)
