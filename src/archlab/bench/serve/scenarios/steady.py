"""A ramp and a plateau of searches: what the service bears."""

import os

from locust import LoadTestShape

from archlab.bench.serve.shapes import at, steady
from archlab.bench.serve.users import SearchUser as SearchUser

USERS, SECONDS = int(os.environ.get("LOAD_USERS", "64")), float(os.environ.get("LOAD_SECONDS", "60"))


class Steady(LoadTestShape):
    """See `archlab.bench.serve.shapes.steady`."""

    def tick(self) -> tuple[int, float] | None:
        """Users now, and how many of them start a second."""
        return at(steady, self.get_run_time(), SECONDS, USERS)
