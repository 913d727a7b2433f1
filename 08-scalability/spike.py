"""A quarter of the users and, twice, without warning, all of them: whether the service recovers."""

from archlab.bench.serve.scenarios.spike import SearchUser as SearchUser
from archlab.bench.serve.scenarios.spike import Spike as Spike
