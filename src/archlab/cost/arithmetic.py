"""Money from throughput: replicas, cost per 1,000 requests, cost per month, and where a GPU pays.

A replica is planned to be busy for a share of the time only (`utilization`): queues grow without bound as it nears 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from archlab.compare.cost import cost_per_1000_requests
from archlab.cost.prices import HOURS_PER_MONTH

_SECONDS_PER_MONTH = HOURS_PER_MONTH * 3600


@dataclass(frozen=True)
class Capacity:
    """One kind of replica.

    Attributes:
        throughput: requests a second that it answers at most.
        price_per_hour: of its machine.
        utilization: share of that throughput that it is planned for, above 0 and up to 1.
    """

    throughput: float
    price_per_hour: float
    utilization: float

    @property
    def planned(self) -> float:
        """Requests a second that a replica is planned for."""
        return self.throughput * self.utilization

    @property
    def per_1000(self) -> float:
        """Cost of 1,000 requests where traffic fills the replicas as planned."""
        return cost_per_1000_requests(self.planned, self.price_per_hour)

    def replicas(self, traffic: float) -> int:
        """How many answer so many requests a second; one stands ready however little is asked."""
        return max(1, math.ceil(traffic / self.planned - 1e-9))

    def monthly(self, traffic: float) -> float:
        """Cost of a month of so many requests a second."""
        return self.replicas(traffic) * self.price_per_hour * HOURS_PER_MONTH

    def per_1000_at(self, traffic: float) -> float:
        """Cost of 1,000 requests at so many a second, replicas that are not full included."""
        return self.monthly(traffic) / (traffic * _SECONDS_PER_MONTH / 1000)


def throughput_to_pay(cpu: Capacity, gpu_price_per_hour: float) -> float:
    """Requests a second that a GPU replica must answer to cost as much per request as a CPU replica does."""
    return cpu.throughput * gpu_price_per_hour / cpu.price_per_hour


def break_even(cpu: Capacity, gpu: Capacity) -> float | None:
    """Requests a second above which GPU replicas cost less than CPU replicas; None: they cost more per request.

    One GPU costs less as soon as the CPU needs more replicas than its price pays for.
    """
    if gpu.per_1000 >= cpu.per_1000:
        return None
    return math.floor(gpu.price_per_hour / cpu.price_per_hour) * cpu.planned
