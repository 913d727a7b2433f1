"""A client of `/v1/stream` that keeps what it hears."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tests.serve.live import Live
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect


class Watching:
    """A client of one stream."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.heard: list[dict[str, Any]] = []

    def say(self, **message: Any) -> None:
        self.connection.send(json.dumps(message))

    def hear(self) -> dict[str, Any]:
        self.heard.append(json.loads(self.connection.recv(timeout=60)))
        return self.heard[-1]

    def hear_until(self, kind: str) -> dict[str, Any]:
        while self.hear()["type"] != kind:
            pass
        return self.heard[-1]

    def send(self, *frames: bytes) -> None:
        """Frames within the credit."""
        for frame in frames:
            self.connection.send(frame)
            self.hear_until("ack")

    def all_of(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.heard if message["type"] == kind]

    def closed(self) -> int:
        """Hear the rest; the code of the close."""
        with suppress(ConnectionClosed):
            while True:
                self.hear()
        assert self.connection.close_code is not None
        return self.connection.close_code

    def problem(self, slug: str) -> dict[str, Any]:
        """The problem that ended the stream."""
        (found,) = (one["problem"] for one in self.all_of("problem") if one["frame"] is None)
        assert found["type"] == f"urn:archlab:problem:{slug}", found
        return dict(found)


@contextmanager
def watching(
    live: Live, *, ready: bool = True, options: dict[str, Any] | None = None, **asked: Any
) -> Iterator[Watching]:
    url = live.url.replace("http", "ws") + "/v1/stream"
    with connect(url, compression=None, **(options or {})) as connection:
        client = Watching(connection)
        client.say(**asked)
        if ready:
            assert client.hear()["type"] == "ready", client.heard
        yield client
