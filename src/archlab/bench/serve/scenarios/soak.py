"""An hour of searches and pictures at a moderate rate: whether anything grows or slows down.

The result's `p95_of_tenths_ms` says whether the last tenth is slower than the first; the memory of the service is in
its metrics (`archlab_memory_bytes`).
"""

import os

os.environ.setdefault("LOAD_PAUSE", "0.1")  # before the users are made

from locust import LoadTestShape

from archlab.bench.serve.shapes import at, steady
from archlab.bench.serve.users import MixedUser as MixedUser

USERS, SECONDS = int(os.environ.get("LOAD_USERS", "16")), float(os.environ.get("LOAD_SECONDS", "3600"))


class Soak(LoadTestShape):
    """See `archlab.bench.serve.shapes.steady`."""

    def tick(self) -> tuple[int, float] | None:
        """Users now, and how many of them start a second."""
        return at(steady, self.get_run_time(), SECONDS, USERS)
