"""How many users ask at which moment: the shapes of the scenarios, as functions of the seconds since the start."""

from __future__ import annotations

from collections.abc import Callable

Shape = Callable[[float, float, int], int]
"""Seconds since the start, seconds of the whole test and users of the plateau -> users now."""

_RAMP = 0.1  # of the test
_SPIKES = ((0.3, 0.4), (0.6, 0.7))  # from and to, of the test
_CALM = 4  # a spike is so many times what is asked before and after


def steady(now: float, seconds: float, users: int) -> int:
    """A short ramp, then the plateau."""
    return max(1, round(users * min(1.0, now / (_RAMP * seconds))))


def spike(now: float, seconds: float, users: int) -> int:
    """A quarter of the users, and twice, without warning, all of them."""
    calm = max(1, users // _CALM)
    return users if any(low <= now / seconds < high for low, high in _SPIKES) else calm


def at(shape: Shape, now: float, seconds: float, users: int) -> tuple[int, float] | None:
    """For Locust's `LoadTestShape.tick`: users and how many of them start a second; None: the test is over."""
    return None if now >= seconds else (shape(now, seconds, users), float(users))
