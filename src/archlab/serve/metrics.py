"""What Prometheus scrapes. Labels take few values: routes as templates, models that are loaded, problems by kind."""

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, get_args

import psutil
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

import archlab
from archlab.machine import memory_limit
from archlab.serve.batcher import Reason, Silent
from archlab.serve.collections import FAILURES, Collections
from archlab.serve.gpus import Gpus
from archlab.serve.limits import Room
from archlab.serve.models import Models
from archlab.serve.problems import KINDS
from archlab.serve.streams.registry import Streams

disable_created_metrics()  # they are a second series for every counter, which nobody reads
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The metrics of one service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)

        def metric(kind: Callable[..., Any], name: str, text: str, *labels: str, **options: Any) -> Any:
            return kind(f"archlab_{name}", text, labels, registry=self.registry, **options)

        self.requests = metric(Counter, "requests", "Requests answered.", "method", "route", "status")
        self.request_seconds = metric(
            Histogram, "request_seconds", "From arrival to the last byte.", "route", buckets=_SECONDS
        )
        self.in_flight = metric(Gauge, "requests_in_flight", "Requests in progress.")
        self.problems = metric(Counter, "problems", "Requests answered with a problem document.", "kind")
        for kind in KINDS:  # from 0: a series that begins with its first problem would hide that one from `rate`
            self.problems.labels(kind.slug)
        self.disconnects = metric(Counter, "disconnects", "Requests whose client left before the answer.", "route")
        self.streams = metric(Counter, "streams", "Streams that ended, by the code of their close, or left.", "end")
        self.stream_frames = metric(Counter, "stream_frames", "Frames of streams.", "outcome")
        self.stream_decodes = metric(Counter, "stream_decodes", "Texts decoded of streams.")
        self.stream_segments = metric(Counter, "stream_segments", "Segments of streams that were spoken.")
        self.decode_seconds = metric(
            Histogram, "image_decode_seconds", "One image, with its wait for a thread.", buckets=_SECONDS
        )
        self.wait_seconds = metric(Histogram, "queue_wait_seconds", "Wait of an item.", "model", buckets=_SECONDS)
        self.batch_items = metric(Histogram, "batch_items", "Items computed at once.", "model", buckets=_ITEMS)
        self.inference_seconds = metric(Histogram, "inference_seconds", "One batch.", "model", buckets=_SECONDS)
        self.index_seconds = metric(
            Histogram, "index_seconds", "Work on the index, with its wait for a thread.", buckets=_SECONDS
        )

    def observer(self, model: str) -> "ModelObserver":
        """What the batcher of a model tells its doings to."""
        return ModelObserver(self, model)

    def forget(self, model: str) -> None:
        """Drop the series of a model that was unloaded."""
        for metric in (self.wait_seconds, self.batch_items, self.inference_seconds):
            metric.remove(model)

    def page(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)


class ModelObserver(Silent):
    """Measures the batches of one model; what a batcher counts by itself is read from its `stats`."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._wait = metrics.wait_seconds.labels(model)
        self._items = metrics.batch_items.labels(model)
        self._seconds = metrics.inference_seconds.labels(model)

    def on_batch(self, group: Hashable, waits: Sequence[float], seconds: float) -> None:
        """See `batcher.Observer`."""
        self._items.observe(len(waits))
        self._seconds.observe(seconds)
        for wait in waits:
            self._wait.observe(wait)


class StateCollector(Collector):
    """What is read at the moment of the scrape: the models that are loaded, the room that is taken, the GPUs."""

    def __init__(
        self,
        models: Models,
        room: Room,
        streams: Streams,
        is_ready: Callable[[], bool],
        processes: Callable[[], Collection[int]],
    ) -> None:
        self._models, self._room, self._streams = models, room, streams
        self._is_ready, self._processes = is_ready, processes
        self._memory, self._gpus = memory_limit(), Gpus()

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        models = self._models.list()
        yield _gauge("ready", "Whether the service is ready.", {(): self._is_ready()})
        yield _gauge("build_info", "1, with the version.", {(archlab.__version__,): 1}, "version")
        memory, seconds = _taken(self._processes())
        yield _gauge("memory_bytes", "Resident memory of the service and of its other processes.", {(): memory})
        yield _gauge("memory_limit_bytes", "Memory that they may take.", {(): self._memory})
        yield _counter("cpu_seconds", "Processor time of the service and of its other processes.", {(): seconds})
        yield _gauge("request_bytes_in_flight", "Bytes reserved for bodies in progress.", {(): self._room.size})
        yield _gauge("streams_open", "Streams that are open.", {(): self._streams.open})
        about = {(model.name, model.arm, model.backend, model.digest[:12]): 1 for model in models}
        yield _gauge("model_info", "1 for a loaded model.", about, "model", "arm", "backend", "digest")
        ready = {(model.name,): model.ready for model in models}
        yield _gauge("model_ready", "Whether the model answers.", ready, "model")
        queued = {(model.name,): model.stats.queued for model in models}
        yield _gauge("queue_items", "Items that wait for a model.", queued, "model")
        limits = {(model.name,): model.limits.batches.queue for model in models}
        yield _gauge("queue_limit_items", "Items that may wait for a model.", limits, "model")
        computing = {(model.name,): model.stats.in_flight for model in models}
        yield _gauge("computing_items", "Items that a model computes.", computing, "model")
        reasons = get_args(Reason)
        dropped = {(model.name, reason): model.stats.dropped[reason] for model in models for reason in reasons}
        yield _counter("dropped_items", "Items that got no result.", dropped, "model", "reason")
        hits = {(model.name,): model.cache.hits for model in models}
        yield _counter("query_cache_hits", "Texts found in the cache of embeddings.", hits, "model")
        misses = {(model.name,): model.cache.misses for model in models}
        yield _counter("query_cache_misses", "Texts not found in it.", misses, "model")
        yield _gauge("gpu_memory_bytes", "Memory of the GPUs.", self._gpus.memory(), "device", "kind")


class IndexCollector(Collector):
    """The collections, as last seen: a scrape asks no index."""

    def __init__(self, collections: Collections) -> None:
        self._collections = collections

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        points = {(name,): size for name, size in list(self._collections.sizes.items())}
        yield _gauge("collection_points", "Points of a collection.", points, "collection")
        failures = {(work,): self._collections.failures[work] for work in FAILURES}
        yield _counter("index_failures", "Work that the index could not do.", failures, "work")


def _taken(processes: Collection[int]) -> tuple[int, float]:
    """Bytes of resident memory and seconds of processor time of this process and others that it started.

    What they share with this one counts once, and the time of those that ended stays.
    """
    own = psutil.Process()
    memory, seconds = own.memory_info().rss, sum(own.cpu_times()[:4])  # its own, and those of children that ended
    for process in set(processes) - {own.pid}:
        with suppress(psutil.NoSuchProcess):  # it ends at this moment
            other = psutil.Process(process)
            taken = other.memory_info()
            memory += taken.rss - getattr(taken, "shared", 0)  # Linux alone tells
            seconds += sum(other.cpu_times()[:4])
    return memory, seconds


def _gauge(name: str, text: str, values: Mapping[Any, float], *labels: str) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"archlab_{name}", text, labels=labels)
    for label, value in values.items():
        family.add_metric(label, float(value))
    return family


def _counter(name: str, text: str, values: Mapping[Any, float], *labels: str) -> CounterMetricFamily:
    family = CounterMetricFamily(f"archlab_{name}", text, labels=labels)
    for label, value in values.items():
        family.add_metric(label, value)
    return family
