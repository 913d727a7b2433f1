"""Latency and throughput of several functions, measured in turns so that their ratios hold on a noisy machine."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

Request = Callable[[], object]


def measure_latency(
    requests: Mapping[str, Callable[[int], Request]],
    batch_sizes: Sequence[int],
    *,
    count: int,
    warmup: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Time every function `count` times at every batch size, one call of each in turn.

    Args:
        requests: name -> prepares a request of the given batch size; preparing is not timed, calling the request is.
            A request must wait for its result where the device computes on its own.
        batch_sizes: samples per request.
        count: timed calls. Below 100, `p99_ms` lies between the two slowest of them.
        warmup: calls before that are not timed.
        clock: seconds.

    Returns:
        name -> batch size as text (a key of JSON) -> `calls`, how many were timed; `p50_ms`, `p95_ms`, `p99_ms` of one
        request and `throughput_per_s`, samples per second of back-to-back requests; `seconds` of every call, in rounds,
        so that two functions can be compared call by call (`paired_ratio`).
    """
    results: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in requests}
    for batch in batch_sizes:
        prepared = {name: prepare(batch) for name, prepare in requests.items()}
        for name, seconds in alternate(prepared, rounds=count, warmup=warmup, clock=clock).items():
            p50, p95, p99 = np.percentile(seconds * 1e3, [50, 95, 99])
            results[name][str(batch)] = {
                "calls": count,
                "p50_ms": float(p50),
                "p95_ms": float(p95),
                "p99_ms": float(p99),
                "throughput_per_s": float(batch * count / seconds.sum()),
                "seconds": seconds.tolist(),
            }
    return results


def paired_ratio(first: Sequence[float], second: Sequence[float], *, samples: int, seed: int) -> dict[str, Any]:
    """Median time of `first` over that of `second`, with a 95 % interval over the rounds that both were timed in.

    Returns:
        "ratio", "low", "high", and in "faster" which of the two it is: "first", "second", or "undecided" where the
        interval includes 1.
    """
    times = np.stack([first, second])  # (2, rounds)
    rounds = np.random.default_rng(seed).integers(0, times.shape[1], (samples, times.shape[1]))
    medians = np.median(times[:, rounds], axis=-1)  # (2, samples)
    low, high = np.quantile(medians[0] / medians[1], [0.025, 0.975])
    ratio = float(np.median(times[0]) / np.median(times[1]))
    faster = "first" if high < 1 else "second" if low > 1 else "undecided"
    return {"ratio": ratio, "low": float(low), "high": float(high), "faster": faster}


def alternate(
    functions: Mapping[str, Request], *, rounds: int, warmup: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, np.ndarray]:
    """Seconds of every call, (rounds,) per function; round i of all functions ran side by side in time.

    Every round begins with another function, so that none always runs first, and the garbage collector runs between the
    rounds instead of within them.
    """
    names = list(functions)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for function in functions.values():
        for _ in range(warmup):
            function()
    with _no_garbage_collection():
        for turn in range(rounds):
            gc.collect(0)
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                start = clock()
                functions[name]()
                seconds[name].append(clock() - start)
    return {name: np.array(values) for name, values in seconds.items()}


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
