"""A quarter of the users and, twice, without warning, all of them: whether the service recovers."""

import os

from locust import LoadTestShape

from archlab.bench.serve.shapes import at, spike
from archlab.bench.serve.users import SearchUser as SearchUser

USERS, SECONDS = int(os.environ.get("LOAD_USERS", "256")), float(os.environ.get("LOAD_SECONDS", "60"))


class Spike(LoadTestShape):
    """See `archlab.bench.serve.shapes.spike`."""

    def tick(self) -> tuple[int, float] | None:
        """Users now, and how many of them start a second."""
        return at(spike, self.get_run_time(), SECONDS, USERS)
