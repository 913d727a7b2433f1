"""Results of a `bench serve` that never ran, with round figures."""

from __future__ import annotations

from typing import Any

from archlab.bench.serve.capacity import typical
from archlab.bench.serve.contest import OURS, compared
from archlab.bench.serve.peers.variants import LITSERVE, SESSION, TORCH


def step(users: int = 64, rate: float = 1200.0, p95: float = 80.0, errors: int = 0) -> dict[str, Any]:
    """One step of load."""
    return {
        "users": users,
        "requests": round(8 * rate),
        "throughput_per_s": rate,
        "p50_ms": p95 / 2,
        "p95_ms": p95,
        "p99_ms": p95 * 1.5,
        "max_ms": p95 * 2,
        "errors": errors,
        "idle_share": 0.05,
        "generator_cores": 0.6,
    }


def over_time(kinds: dict[str, Any]) -> dict[str, Any]:
    """What a scenario has that a step has not."""
    tenths = [None, *(10.0 * (tenth + 1) for tenth in range(9))]
    return {"seconds": 40.0, "p95_of_tenths_ms": tenths, "kinds": kinds, "memory_mib": [900.0, 1004.6]}


def swept(one: dict[str, Any]) -> dict[str, Any]:
    """A step that was measured twice."""
    return {"users": one["users"], **typical([one, one])}


def results(*, capacity: float = 1200.0, litserve: float = 400.0, torch: float = 500.0, session: float = 1200.0) -> Any:
    """Three rounds; ours answers 1,200 requests a second in each of them."""
    rounds = {OURS: 1200.0, TORCH: torch, SESSION: session, LITSERVE: litserve}
    steps = {name: [step(rate=rate + turn) for turn in range(3)] for name, rate in rounds.items()}
    image = {"decode_ms": 2.0, "compute_ms": {"1": 4.0, "8": 3.0, "32": 3.5}, "floor_ms": 5.0}
    pictures = {
        "vljepa": {**step(16, 180.0), "floor": image, "share_of_floor": 0.9},
        "token": {**step(16, 200.0), "floor": image, "share_of_floor": 1.0},
    }
    best = step(64, capacity)
    return {
        "archlab": "0.1.0",
        "git": "0" * 40,
        "created": "2026-11-21T12:00:00+00:00",
        "machine": {"cpu": "A processor", "cores": 2, "gpu": None},
        "plan": {
            "points": 50_000,
            "users": 64,
            "image_users": 16,
            "rounds": 3,
            "turn": 3.0,
            "sweeps": 2,
            "seconds": 8.0,
            "warmup": 2.0,
            "goal_ms": 100.0,
        },
        "generator": "wrk",
        "models": {"vljepa": {"name": "scenes-vljepa", "backend": "onnx", "digest": "d", "width": 128}},
        "capacity": {
            "steps": [swept(step(8, 700.0, 20.0)), swept(best), swept(step(128, 1250.0, 130.0))],
            "best": best,
        },
        "cache": {
            "without": {**best, "share": 0.0},
            "with": {**step(64, 1600.0), "share": 0.98},
            "side_by_side": {"share": 0.0},
        },
        "scenarios": {
            "search": {"vljepa": best},
            "classify": pictures,
            "caption": {"vljepa": step(16, 60.0), "token": step(16, 50.0)},
        },
        "over_time": {
            "spike": {**step(256, 500.0), **over_time({"search": step(rate=500.0)})},
            "mixed": {**step(64, 300.0), **over_time({"search": step(rate=200.0), "classify": step(rate=100.0)})},
        },
        "service": {"requests_logged": 9, "requests_counted": 9, "texts_cached": 0, "texts_embedded": 9},
        "peers": {TORCH: [{"settings": {"style": "def", "threads": "1"}, **step(rate=torch)}]},
        "same_hits": {TORCH: 1.0},
        "side_by_side": {name: compared(own, steps[OURS]) for name, own in steps.items()},
    }
