"""SIGTERM without a failed request."""

import asyncio
import os
import signal
import threading
from types import FrameType

import structlog

from archlab.serve.service import Service


class Drain:
    """Turns the service not ready at once, so that balancers send nothing more, and lets the server stop only later.

    The handler goes in front of the server's own, whichever started this application.

    Args:
        service: to turn not ready.
        seconds: to serve on.
    """

    def __init__(self, service: Service, seconds: float) -> None:
        self._service, self._seconds = service, seconds
        self._next = signal.SIG_DFL

    def install(self) -> None:
        """Take over SIGTERM; signals reach the main thread only, and in another one nothing is done."""
        if threading.current_thread() is threading.main_thread():
            self._loop = asyncio.get_running_loop()
            self._next = signal.signal(signal.SIGTERM, self._terminate)  # type: ignore[assignment]

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        # The second signal is in earnest; and where the models are not loaded yet, no balancer has sent anything.
        if self._service.draining or self._service.starting or not self._seconds:
            self._pass_on(number)
        else:
            self._service.drain()
            self._loop.call_soon_threadsafe(self._begin, number)

    def _begin(self, number: int) -> None:
        structlog.get_logger().info("draining", seconds=self._seconds)
        self._service.streams.end()
        self._loop.call_later(self._seconds, self._pass_on, number)

    def _pass_on(self, number: int) -> None:
        if callable(self._next):
            self._next(number, None)
        else:
            signal.signal(signal.SIGTERM, self._next)
            os.kill(os.getpid(), number)
