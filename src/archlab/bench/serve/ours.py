"""The service under test as it is deployed: with keys, a log record for every request and metrics."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from archlab.bench.serve.servers import Server
from archlab.bench.serve.workload import path, search_body
from archlab.compare.scores import ARMS
from archlab.errors import UserError
from archlab.serve.auth import create_key
from archlab.serve.engine import Engine
from archlab.serve.opening import Choice, open_engine
from archlab.serve.service import named_folders, shipped

PATH = path("search")
PROBE = search_body("a red circle")
CACHED_TEXTS = 128
"""Embeddings that the service keeps: few of the texts that all differ, so that users who begin anew, in another
process, find none of those before them; and more than are searched for again and again."""

_NO_LIMIT = 10**9  # items a second of the key: what the service bears is the question


@dataclass(frozen=True)
class Model:
    """A run that is served.

    Attributes:
        name: by which it is asked.
        folder: of the run.
        engine: the same run in this process, to be measured by itself.
    """

    name: str
    folder: Path
    engine: Engine

    def describe(self) -> dict[str, Any]:
        """For the results."""
        about = self.engine.about
        return {"name": self.name, "digest": about.digest, "backend": about.backend, "width": about.width}


def open_models(runs: tuple[str, ...], backend: Choice) -> dict[str, Model]:
    """Arm -> the first run of that arm.

    Args:
        runs: FOLDER or NAME=FOLDER; those that are shipped if there is none.

    Raises:
        UserError: none is of the vljepa arm, or a folder holds no run.
    """
    models: dict[str, Model] = {}
    for name, folder in (named_folders(runs) if runs else shipped()).items():
        engine = open_engine(folder, backend)
        if engine.about.arm in ARMS:
            models.setdefault(engine.about.arm, Model(name, folder, engine))
    if "vljepa" not in models:
        raise UserError(
            f"bench serve: {', '.join(runs) or 'what is shipped'} has no run of the vljepa arm, whose texts can be "
            f"searched; give one with --run FOLDER"
        )
    return dict(sorted(models.items(), reverse=True))


def start(models: Mapping[str, Model], backend: Choice, index: Path, work: Path) -> Server:
    """Start the service on a copy of an index; it need not answer yet.

    Args:
        work: folder for its key, its log and the index.
    """
    copy = work / "index"
    shutil.copytree(index, copy)
    key = create_key(work / "keys.json", "load", requests_per_second=_NO_LIMIT, burst=_NO_LIMIT)
    runs = [f"{model.name}={model.folder.resolve()}" for model in models.values()]
    options = ["--port", "{port}", "--keys", str(work / "keys.json"), "--index", str(copy), "--backend", backend]
    settings = {"ARCHLAB_CACHED_TEXTS": str(CACHED_TEXTS)}
    arguments = ["archlab", "serve", *runs, *options]
    return Server(
        arguments, path=PATH, body=PROBE, log=work / "service.log", key=key, settings=settings, ready="/readyz"
    )


def read_state(server: Server) -> dict[str, int]:
    """What the service's own metrics and log say of the load: whether all was on, and what came from the cache."""
    totals = _totals(server)
    logged = server.log.read_bytes().count(b'"event":"request"')
    counted = {
        "requests_counted": "archlab_requests_total",
        "texts_cached": "archlab_query_cache_hits_total",
        "texts_embedded": "archlab_query_cache_misses_total",
    }
    return {"requests_logged": logged} | {name: int(totals.get(metric, 0)) for name, metric in counted.items()}


def memory(server: Server) -> float:
    """MiB of resident memory of the service, its other processes included."""
    return _totals(server)["archlab_memory_bytes"] / 2**20


def _totals(server: Server) -> dict[str, float]:
    """Metric -> the sum over its labels."""
    page = httpx.get(f"{server.url}/metrics", timeout=30).text
    totals: dict[str, float] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
    return totals


def cached_share(before: Mapping[str, int], after: Mapping[str, int]) -> float:
    """Share of the texts between two states whose embeddings came from the cache."""
    cached, embedded = (after[name] - before.get(name, 0) for name in ("texts_cached", "texts_embedded"))
    return cached / max(1, cached + embedded)
