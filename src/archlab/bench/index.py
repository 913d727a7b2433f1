"""`archlab bench index`: the embedded vector index beside exact search, over the same vectors and queries in turns.

Vectors are drawn around centres, as embeddings of things that are alike lie, and queries around the same centres.
Recall@10 is the share of the ten nearest, by exact search, that a backend finds.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from archlab.bench.train import conditions
from archlab.compare.latency import alternate
from archlab.index.embedded import EmbeddedIndex
from archlab.index.exact import ExactIndex
from archlab.index.filters import Equals, Filter
from archlab.index.metadata import Metadata
from archlab.index.protocol import Collection, CollectionSpec, Points
from archlab.progress import track
from archlab.train.folder import write_text

EXACT, EMBEDDED = "exact", "embedded"
HITS = 10
_KINDS = 10  # values of the field of the condition, which so leaves a tenth of the points
_ALIKE = 50  # vectors around one centre
_SPREAD = 0.7  # length of what is added to a centre of length 1
_BATCH = 1000


@dataclass(frozen=True)
class Size:
    """What is searched, and by how many different queries."""

    points: int = 50_000
    width: int = 256
    queries: int = 200


def bench_index(
    size: Size = Size(),  # frozen
    *,
    rounds: int = 200,
    out: Path | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Run the benchmark, print its table, and write its results to `out` if given.

    Args:
        rounds: timed searches of each backend, with a condition and without.
        out: JSON file, written whole or not at all.
        clock: seconds.
    """
    vectors, queries = draw(size)
    results: dict[str, Any] = {**conditions(), "size": asdict(size), "rounds": rounds, "hits": HITS, "backends": {}}
    with tempfile.TemporaryDirectory() as folder, ExactIndex() as exact, EmbeddedIndex(Path(folder)) as embedded:
        spec = CollectionSpec(width=size.width)
        collections = {name: index.create("c", spec) for name, index in ((EXACT, exact), (EMBEDDED, embedded))}
        for name, collection in collections.items():
            results["backends"][name] = fill(name, collection, vectors, clock)
        for title, where in (("all", None), ("filtered", Equals("kind", "0"))):
            measured = measure(collections, queries, where, rounds, clock)
            for name, found in measured.items():
                results["backends"][name][title] = found
    print_table(results)
    if out is not None:
        write_text(out, json.dumps(results, indent=2) + "\n")
    return results


def draw(size: Size, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (points, width) and queries (queries, width), all around the same centres."""
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((max(1, size.points // _ALIKE), size.width)) / size.width**0.5
    near = [
        centres[generator.integers(len(centres), size=count)]
        + _SPREAD * generator.standard_normal((count, size.width)) / size.width**0.5
        for count in (size.points, size.queries)
    ]
    return near[0].astype(np.float32), near[1].astype(np.float32)


def fill(name: str, collection: Collection, vectors: np.ndarray, clock: Callable[[], float]) -> dict[str, Any]:
    """Write all vectors and make them fast to search; seconds of both."""
    start = clock()
    with track(f"{name}: write", len(vectors)) as progress:
        for first in range(0, len(vectors), _BATCH):
            numbers = range(first, min(first + _BATCH, len(vectors)))
            metadata: list[Metadata] = [{"kind": str(number % _KINDS)} for number in numbers]
            collection.upsert(Points([str(number) for number in numbers], vectors[numbers], metadata))
            progress.advance(len(numbers))
    written = clock()
    collection.optimize()
    return {"write_seconds": written - start, "optimize_seconds": clock() - written}


def measure(
    collections: dict[str, Collection],
    queries: np.ndarray,
    where: Filter | None,
    rounds: int,
    clock: Callable[[], float],
) -> dict[str, dict[str, float]]:
    """Milliseconds of one search and recall@10 of each backend."""
    nearest = [_ids(collections[EXACT], query, where) for query in queries]
    recall = {
        name: float(
            np.mean([_share(_ids(one, query, where), best) for query, best in zip(queries, nearest, strict=True)])
        )
        for name, one in collections.items()
    }
    calls = {name: partial(_next, one, cycle(queries), where) for name, one in collections.items()}
    return {
        name: {
            "p50_ms": float(np.median(seconds) * 1e3),
            "p95_ms": float(np.percentile(seconds, 95) * 1e3),
            "recall": recall[name],
        }
        for name, seconds in alternate(calls, rounds=rounds, warmup=3, clock=clock).items()
    }


def print_table(results: Mapping[str, Any]) -> None:
    """Print the results of `bench_index`."""
    size = results["size"]
    table = Table(
        title=f"Vector search, {size['points']} x {size['width']}, {HITS} hits; filtered: a tenth of the points",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("")
    for header in ("write s", "optimise s", "p50 / p95 ms", "recall", "filtered", "recall"):
        table.add_column(header, justify="right")
    for name, found in results["backends"].items():
        times = [f"{found[key]:.1f}" for key in ("write_seconds", "optimize_seconds")]
        searches = [
            cell
            for one in (found["all"], found["filtered"])
            for cell in (f"{one['p50_ms']:.2f} / {one['p95_ms']:.2f}", f"{one['recall']:.4f}")
        ]
        table.add_row(name, *times, *searches)
    Console().print(table)


def _next(collection: Collection, queries: Any, where: Filter | None) -> object:
    return collection.search(next(queries), HITS, where)


def _ids(collection: Collection, query: np.ndarray, where: Filter | None) -> list[str]:
    return [hit.id for hit in collection.search(query, HITS, where)]


def _share(found: Sequence[str], best: Sequence[str]) -> float:
    return len(set(found) & set(best)) / len(best) if best else 1.0
