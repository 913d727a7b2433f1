"""8 searches to 2 classifications and 1 caption, side by side: whether pictures slow down texts."""

from archlab.bench.serve.scenarios.mixed import Mixed as Mixed
from archlab.bench.serve.scenarios.mixed import MixedUser as MixedUser
