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

_POPULAR = 64  # texts, which the cache keeps
_TEXTS = 20_000  # in turns, so that a cache that keeps fewer has forgotten each before it comes again
_PICTURES = 16
_SEED = 1
_COLLECTION = os.environ.get("LOAD_COLLECTION", "captions")
_MODEL = os.environ.get("LOAD_MODEL")
_HEADERS = {"Content-Type": "application/json"}
if _key := os.environ.get("ARCHLAB_API_KEY"):
    _HEADERS["Authorization"] = f"Bearer {_key}"

record = Record()


class User(FastHttpUser):
    """What all users share."""

    abstract = True
    wait_time = constant(float(os.environ.get("LOAD_PAUSE", "0")))

    def post(self, path: str, body: bytes, kind: str) -> None:
        """Ask; anything but an answer of 2xx is an error."""
        self.client.post(path, data=body, headers=_HEADERS, name=kind)  # type: ignore[arg-type]  # it sends bytes too

    def search(self) -> None:
        """By text, no text twice in a row of 20,000."""
        self.post(f"/v1/collections/{_COLLECTION}/search", next(_searches()), "search")

    def search_again(self) -> None:
        """By one of few texts, whose embeddings the service has kept."""
        self.post(f"/v1/collections/{_COLLECTION}/search", next(_popular_searches()), "search")

    def classify(self) -> None:
        """A picture, among 8 labels."""
        self.post("/v1/classify", next(_classifications()), "classify")

    def caption(self) -> None:
        """A picture, to be described."""
        self.post("/v1/caption", next(_captions()), "caption")


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
def _searches() -> Iterator[bytes]:
    first = randrange(_TEXTS)  # those of the run before may still be in the cache, where it was a short one
    return islice(cycle([workload.search_body(text) for text in workload.captions(_TEXTS, _SEED)]), first, None)


@cache
def _popular_searches() -> Iterator[bytes]:
    return cycle([workload.search_body(text) for text in workload.captions(_POPULAR, _SEED)])


@cache
def _classifications() -> Iterator[bytes]:
    return cycle([workload.classify_body(picture, _MODEL) for picture in workload.pictures(_PICTURES)])


@cache
def _captions() -> Iterator[bytes]:
    return cycle([workload.caption_body(picture, _MODEL) for picture in workload.pictures(_PICTURES)])


@events.request.add_listener  # type: ignore[untyped-decorator]
def _note(name: str, response_time: float, exception: BaseException | None, **_: Any) -> None:
    record.add(name, response_time / 1e3, exception)


@events.init.add_listener  # type: ignore[untyped-decorator]
def _prepare(environment: Environment, **_: Any) -> None:
    for kind in environment.user_classes:  # before the clock of the test starts
        if issubclass(kind, SearchUser | MixedUser):
            _searches()
        if issubclass(kind, PopularSearchUser):
            _popular_searches()
        if issubclass(kind, ClassifyUser | MixedUser):
            _classifications()
        if issubclass(kind, CaptionUser | MixedUser):
            _captions()
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
