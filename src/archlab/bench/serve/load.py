"""One step of load, whichever generator asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from archlab.bench.serve.workload import Kind

Generator = Literal["wrk", "locust"]


@dataclass(frozen=True, kw_only=True)
class Load:
    """What asks.

    Attributes:
        generator: that asks.
        kind: of requests.
        users: so many at once, each asking again as soon as it is answered.
        seconds: that are measured, after `warmup` that are not; both above 0. Generators take whole seconds and round
            up: Locust both together, wrk each.
        model: that is asked, where it is not the default.
    """

    generator: Generator
    kind: Kind = "search"
    users: int = 64
    seconds: float = 8.0
    warmup: float = 2.0
    model: str = ""
