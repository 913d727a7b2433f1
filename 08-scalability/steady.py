"""A ramp and a plateau of searches: what the service bears."""

from archlab.bench.serve.scenarios.steady import SearchUser as SearchUser
from archlab.bench.serve.scenarios.steady import Steady as Steady
