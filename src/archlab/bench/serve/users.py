"""Locust users of the service: each asks again as soon as it has its answer.

    locust -f users.py SearchUser --headless --host http://127.0.0.1:8000 --users 64 --run-time 30s

`ARCHLAB_API_KEY` is the key, `LOAD_COLLECTION` what is searched, `LOAD_MODEL` which model is asked, `LOAD_WARMUP` the
seconds that are not measured, `LOAD_PAUSE` the seconds that a user waits between two requests, and `LOAD_RESULT` the
file that gets what `record.Record` measured. Importing this module lets gevent replace the standard library's sockets.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from random import randrange
from typing import Any

import gevent
from locust import FastHttpUser, constant, events, task
from locust.env import Environment

from archlab.bench.serve import workload
from archlab.bench.serve.record import Record
from archlab.bench.serve.workload import Kind

_COLLECTION = os.environ.get("LOAD_COLLECTION", workload.COLLECTION)
_MODEL = os.environ.get("LOAD_MODEL")
_HEADERS = {"Content-Type": "application/json"}
if _key := os.environ.get("ARCHLAB_API_KEY"):
    _HEADERS["Authorization"] = f"Bearer {_key}"

record = Record()


class User(FastHttpUser):
    """What all users share."""

    abstract = True
    wait_time = constant(float(os.environ.get("LOAD_PAUSE", "0")))

    def post(self, kind: Kind, name: str) -> None:
        """Ask; anything but an answer of 2xx is an error."""
        path, body = workload.path(kind, _COLLECTION), next(_turns(kind))
        self.client.post(path, data=body, headers=_HEADERS, name=name)  # type: ignore[arg-type]  # it sends bytes too

    def search(self) -> None:
        """By text, no text twice in a row of 20,000."""
        self.post("search", "search")

    def search_again(self) -> None:
        """By one of few texts, whose embeddings the service has kept."""
        self.post("popular", "search")

    def classify(self) -> None:
        """A picture, among 8 labels."""
        self.post("classify", "classify")

    def caption(self) -> None:
        """A picture, to be described."""
        self.post("caption", "caption")


class SearchUser(User):
    """Searches."""

    tasks = [User.search]  # noqa: RUF012  # as Locust declares it


class PopularSearchUser(User):
    """Searches for what others have searched for."""

    tasks = [User.search_again]  # noqa: RUF012  # as Locust declares it


class ClassifyUser(User):
    """Has pictures classified."""

    tasks = [User.classify]  # noqa: RUF012  # as Locust declares it


class CaptionUser(User):
    """Has pictures described."""

    tasks = [User.caption]  # noqa: RUF012  # as Locust declares it


class MixedUser(User):
    """Mostly searches, and sometimes sends a picture."""

    @task(8)
    def ask_text(self) -> None:
        """See `User.search`; as the others."""
        self.search()

    @task(2)
    def ask_labels(self) -> None:
        self.classify()

    @task(1)
    def ask_description(self) -> None:
        self.caption()


@cache  # one for all users
def _turns(kind: Kind) -> Iterator[bytes]:
    bodies = workload.bodies(kind, _MODEL)
    first = randrange(len(bodies))  # those of the run before may still be in the cache, where it was a short one
    return islice(cycle(bodies), first, None)


@events.request.add_listener  # type: ignore[untyped-decorator]
def _note(name: str, response_time: float, exception: BaseException | None, **_: Any) -> None:
    record.add(name, response_time / 1e3, exception)


@events.init.add_listener  # type: ignore[untyped-decorator]
def _prepare(environment: Environment, **_: Any) -> None:
    for kind in environment.user_classes:  # before the clock of the test starts
        if issubclass(kind, SearchUser | MixedUser):
            _turns("search")
        if issubclass(kind, PopularSearchUser):
            _turns("popular")
        if issubclass(kind, ClassifyUser | MixedUser):
            _turns("classify")
        if issubclass(kind, CaptionUser | MixedUser):
            _turns("caption")
    gevent.sleep(0)  # its clock stood still meanwhile: timers that are set now would go off too early


@events.test_start.add_listener  # type: ignore[untyped-decorator]
def _start(**_: Any) -> None:
    gevent.spawn_later(float(os.environ.get("LOAD_WARMUP", "2")), record.begin)


@events.test_stopping.add_listener  # type: ignore[untyped-decorator]
def _stop(**_: Any) -> None:
    record.end()


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def _write(environment: Environment, **_: Any) -> None:
    if place := os.environ.get("LOAD_RESULT"):
        users = environment.runner.target_user_count if environment.runner else 0
        Path(place).write_text(json.dumps(record.summary(users), indent=2) + "\n", encoding="utf-8")
