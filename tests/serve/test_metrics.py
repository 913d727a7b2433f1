"""Promises of the metrics: what happened is counted, under names that stay."""

from __future__ import annotations

from types import SimpleNamespace
from typing import get_args

import httpx
import psutil
import pynvml
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.serve.live import Live, base64_of, picture, serving

from archlab.machine import memory_limit
from archlab.serve.batcher import Reason
from archlab.serve.collections import FAILURES
from archlab.serve.gpus import Gpus
from archlab.serve.problems import KINDS


def scrape(client: httpx.Client) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    page = client.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page.text)
        for sample in family.samples
    }


def test_what_is_asked_is_counted(live: Live, client: httpx.Client) -> None:
    def value(name: str, **labels: str) -> float:
        return scraped.get((f"archlab_{name}", tuple(sorted(labels.items()))), 0)

    body = {"input": ["never asked before", {"image": base64_of(picture())}], "model": "scenes-vljepa"}
    scraped = scrape(client)
    route, model = {"route": "/v1/embeddings"}, {"model": "scenes-vljepa"}
    before = {
        "requests": value("requests_total", method="POST", status="200", **route),
        "seconds": value("request_seconds_count", **route),
        "decoded": value("image_decode_seconds_count"),
        "items": value("batch_items_sum", **model),
        "waits": value("queue_wait_seconds_count", **model),
        "misses": value("query_cache_misses_total", **model),
        "hits": value("query_cache_hits_total", **model),
    }
    for _ in range(2):
        assert client.post("/v1/embeddings", json=body).status_code == 200
    scraped = scrape(client)
    assert value("requests_total", method="POST", status="200", **route) == before["requests"] + 2
    assert value("request_seconds_count", **route) == before["seconds"] + 2
    assert value("image_decode_seconds_count") == before["decoded"] + 2
    assert value("batch_items_sum", **model) == before["items"] + 3
    assert value("queue_wait_seconds_count", **model) == before["waits"] + 3
    assert value("query_cache_misses_total", **model) == before["misses"] + 1
    assert value("query_cache_hits_total", **model) == before["hits"] + 1
    assert value("ready") == 1
    assert value("requests_in_flight") == 1  # the scrape itself
    assert value("queue_items", **model) == value("computing_items", **model) == 0
    assert value("queue_limit_items", **model) == live.service.models.get("scenes-vljepa").limits.batches.queue
    assert value("model_ready", **model) == 1
    digest = live.service.models.get("scenes-vljepa").digest[:12]
    assert value("model_info", arm="vljepa", backend="torch", digest=digest, **model) == 1


def test_texts_are_kept_as_many_as_the_setting_says_and_none_at_0(entries: tuple[str, ...]) -> None:
    with serving(models=entries, backend="torch", cached_texts=0) as live, live.client() as client:
        for _ in range(2):
            assert client.post("/v1/embeddings", json={"input": "asked twice"}).status_code == 200
        found = scrape(client)
        name = (("model", "scenes-vljepa"),)
        counted = [found[f"archlab_query_cache_{kind}_total", name] for kind in ("hits", "misses")]
        assert counted == [0, 2]


def test_the_process_is_measured_too(client: httpx.Client) -> None:
    names = {name for name, _ in scrape(client)}
    assert {"process_resident_memory_bytes", "process_cpu_seconds_total", "python_info"} <= names


def test_what_has_not_happened_yet_is_counted_as_0(live: Live, client: httpx.Client) -> None:
    """A series that begins with what it counts hides the first from `rate` and `increase`."""
    scraped = scrape(client)
    for kind in KINDS:
        assert ("archlab_problems_total", (("kind", kind.slug),)) in scraped
    for work in FAILURES:
        assert scraped["archlab_index_failures_total", (("work", work),)] == 0
    for model in live.service.models.list():
        for reason in get_args(Reason):
            assert ("archlab_dropped_items_total", (("model", model.name), ("reason", reason))) in scraped


def test_the_memory_is_told_with_its_limit(client: httpx.Client) -> None:
    scraped = scrape(client)
    assert 0 < scraped["archlab_memory_bytes", ()] < scraped["archlab_memory_limit_bytes", ()] == memory_limit()


def test_memory_and_time_of_an_engine_in_a_process_count_with_those_of_the_service(entries: tuple[str, ...]) -> None:
    def taken(client: httpx.Client) -> tuple[float, float]:
        found = scrape(client)
        own = found["process_resident_memory_bytes", ()], found["process_cpu_seconds_total", ()]
        return found["archlab_memory_bytes", ()] - own[0], found["archlab_cpu_seconds_total", ()] - own[1]

    with serving(models=entries[:1], backend="torch", engines="process") as live, live.client() as client:
        (model,) = live.service.models.list()
        assert model.pid is not None
        engine = psutil.Process(model.pid)
        others = [psutil.Process().cpu_times().children_user, psutil.Process().cpu_times().children_system]
        memory, seconds = taken(client)
        own = engine.memory_info()
        assert memory == pytest.approx(own.rss - own.shared, rel=0.2)
        assert seconds == pytest.approx(sum(engine.cpu_times()[:2]) + sum(others), abs=0.5)
        assert client.delete(f"/v1/models/{model.name}").status_code < 300
        psutil.wait_procs([engine], timeout=60)
        after = taken(client)
        assert after[0] < 0.2 * memory
        assert after[1] >= seconds - 0.5


def test_gpus_are_measured_by_their_driver_whoever_computes_on_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(handle: str) -> SimpleNamespace:
        if handle == "gone":
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return SimpleNamespace(used=50, total=80)

    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 3)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", ["first", "gone", "third"].__getitem__)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", ask)
    used = {(number, kind): size for number in ("0", "2") for kind, size in (("used", 50), ("total", 80))}
    assert Gpus().memory() == used


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    assert Gpus().memory() == {}
