"""What one load test measured: requests that ended within its window, and how idle the machine was meanwhile.

Locust rounds the times that it reports; these are exact.
"""

from __future__ import annotations

import time
from array import array
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil

_Moment = tuple[float, tuple[float, float], float]  # by the clock; idle and all seconds; seconds of this process
_COUNTED_TWICE = ("guest", "guest_nice")  # within user and nice already


class Record:
    """Filled while the load runs. Errors count from the first request to the last, times within the window alone.

    Args:
        clock: seconds.
        cpu: seconds since the start of the machine that its cores were idle, and of all together.
        own_cpu: seconds of processor time of this process, the load generator.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.perf_counter,
        cpu: Callable[[], tuple[float, float]] = lambda: cpu_seconds(),
        own_cpu: Callable[[], float] = time.process_time,
    ) -> None:
        self._clock, self._cpu, self._own_cpu = clock, cpu, own_cpu
        self._kinds: dict[str, tuple[array[float], array[float]]] = {}  # kind -> when they ended, how long they took
        self._errors: Counter[str] = Counter()
        self._begun: _Moment | None = None
        self._ended: _Moment | None = None

    def add(self, kind: str, seconds: float, error: BaseException | None) -> None:
        """A request has ended."""
        if error is not None:
            self._errors[f"{kind}: {error}"[:200]] += 1
            return
        ends, times = self._kinds.setdefault(kind, (array("d"), array("d")))
        ends.append(self._clock())
        times.append(seconds)

    def begin(self) -> None:
        """The window opens: all users are there and everything is warm."""
        self._begun = self._now()

    def end(self) -> None:
        """The window closes."""
        self._ended = self._now()

    def summary(self, users: int) -> dict[str, Any]:
        """Requests and errors, throughput, latency, and the idle share of the machine; "kinds" has them by request.

        Args:
            users: that asked, for the reader.
        """
        if self._begun is None or self._ended is None:  # stopped while it was warming up
            return {"users": users, "requests": 0, "errors": self._errors.total(), "error_kinds": dict(self._errors)}
        (start, cpu, own), (end, last_cpu, last_own) = self._begun, self._ended
        kinds = {
            kind: (np.frombuffer(times)[inside], np.frombuffer(ends)[inside])
            for kind, (ends, times) in self._kinds.items()
            for inside in [(np.frombuffer(ends) >= start) & (np.frombuffer(ends) <= end)]
        }
        every = np.concatenate([times for times, _ in kinds.values()] or [np.empty(0)])
        when = np.concatenate([ends for _, ends in kinds.values()] or [np.empty(0)])
        return {
            "users": users,
            **latency(every, end - start),
            "errors": self._errors.total(),
            "error_kinds": dict(self._errors),
            "seconds": end - start,
            "idle_share": idle_share(cpu, last_cpu),
            "generator_cores": (last_own - own) / (end - start),
            "p95_of_tenths_ms": [
                latency(every[(when >= low) & (when <= high)], 1.0).get("p95_ms")
                for low, high in zip(*_edges(start, end), strict=True)
            ],
            "kinds": {kind: latency(times, end - start) for kind, (times, _) in kinds.items()},
        }

    def _now(self) -> _Moment:
        return self._clock(), self._cpu(), self._own_cpu()


def latency(seconds: np.ndarray, window: float) -> dict[str, Any]:
    """Requests, how many a second, and how long they took; no times where there was no request."""
    found: dict[str, Any] = {"requests": len(seconds), "throughput_per_s": len(seconds) / window}
    if len(seconds):
        quantiles = np.percentile(seconds * 1e3, [50, 95, 99, 100])
        found |= dict(zip(("p50_ms", "p95_ms", "p99_ms", "max_ms"), map(float, quantiles), strict=True))
    return found


def cpu_seconds() -> tuple[float, float]:
    """Seconds that the machine's cores were idle since its start, and all their seconds."""
    times = psutil.cpu_times()._asdict()
    idle = times["idle"] + times.get("iowait", 0.0)
    return idle, sum(seconds for name, seconds in times.items() if name not in _COUNTED_TWICE)


def idle_share(begun: tuple[float, float], ended: tuple[float, float]) -> float:
    """Share of the machine's processor time that nobody used between two `cpu_seconds`."""
    idle, total = (last - first for first, last in zip(begun, ended, strict=True))
    return idle / total if total > 0 else 0.0


def _edges(start: float, end: float) -> tuple[list[float], list[float]]:
    """Where the tenths of the window begin and end."""
    edges = np.linspace(start, end, 11).tolist()
    return edges[:-1], edges[1:]
