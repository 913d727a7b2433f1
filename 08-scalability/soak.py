"""An hour of searches and pictures at a moderate rate: whether anything grows or slows down."""

from archlab.bench.serve.scenarios.soak import MixedUser as MixedUser
from archlab.bench.serve.scenarios.soak import Soak as Soak
