"""8 searches to 2 classifications and 1 caption, side by side: whether pictures slow down texts."""

import os

from locust import LoadTestShape

from archlab.bench.serve.shapes import at, steady
from archlab.bench.serve.users import MixedUser as MixedUser

USERS, SECONDS = int(os.environ.get("LOAD_USERS", "32")), float(os.environ.get("LOAD_SECONDS", "60"))


class Mixed(LoadTestShape):
    """See `archlab.bench.serve.shapes.steady`."""

    def tick(self) -> tuple[int, float] | None:
        """Users now, and how many of them start a second."""
        return at(steady, self.get_run_time(), SECONDS, USERS)
