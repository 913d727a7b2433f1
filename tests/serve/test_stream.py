"""Promises of a stream: a text whenever the meaning changes, in bounds that no client can move, to an orderly end."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from structlog.testing import capture_logs
from tests.clips import greys, write_clip
from tests.serve.holding import broken
from tests.serve.live import Live, base64_of, picture, png, serving, wait_for
from tests.serve.watching import Watching, watching
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from archlab.serve.auth import create_key, revoke_key
from archlab.serve.schemas import DESCRIBE

MODEL = "scenes-vljepa"
EXAMPLE = Path(__file__).resolve().parents[2] / "06-production" / "watch.py"
SENSITIVE = {"threshold": 0.001}


@pytest.fixture(scope="session")
def different(live: Live, pictures: list[np.ndarray]) -> list[tuple[bytes, str]]:
    """Two pictures of which the model says different things, with what it says."""
    model = live.service.models.get(MODEL)
    texts = [one.text for one in live.run(model.speak(pictures, [DESCRIBE] * len(pictures)))]
    other = next(row for row, text in enumerate(texts) if text != texts[0])
    return [(png(pictures[row]), texts[row]) for row in (0, other)]


@pytest.fixture(scope="module")
def only(entries: tuple[str, ...]) -> dict[str, Any]:
    """The settings of a service of the model that is watched with."""
    return {"models": [entry for entry in entries if entry.startswith(MODEL)], "backend": "torch"}


@pytest.fixture(scope="module")
def cramped(only: dict[str, Any], engines: str) -> Iterator[Live]:
    with serving(**only, engines=engines, stream_frames=3, max_streams=2, queue_items=4) as live:
        yield live


@pytest.fixture
def small(cramped: Live) -> Iterator[Live]:
    """A service with little room, and nobody in it."""
    yield cramped
    wait_for(lambda: cramped.service.streams.open == 0)


def test_a_text_comes_only_when_the_meaning_changes(small: Live, different: list[tuple[bytes, str]]) -> None:
    (first, said_first), (second, said_second) = different
    with watching(small, **SENSITIVE) as client:
        client.send(*[first] * 4, *[second] * 3, *[first] * 2)
        client.say(type="finish")
        assert client.closed() == 1000
    segments, ends = client.all_of("segment"), client.all_of("segment_end")
    assert [one["text"] for one in segments] == [said_first, said_second, said_first]
    assert [(one["start"]["frame"], one["spoken"]["frame"]) for one in segments] == [(0, 0), (4, 4), (7, 7)]
    assert [(one["number"], one["start"]["frame"], one["end"]["frame"]) for one in ends] == [
        (0, 0, 3),
        (1, 4, 6),
        (2, 7, 8),
    ]
    assert all(0 < one["confidence"] <= 1 for one in segments)
    end = client.heard[-1]
    assert {name: end[name] for name in ("type", "code", "frames", "dropped", "decodes", "segments")} == {
        "type": "end",
        "code": 1000,
        "frames": 9,
        "dropped": 0,
        "decodes": 3,
        "segments": 3,
    }


def test_words_that_were_said_last_are_not_said_again(live: Live, different: list[tuple[bytes, str]]) -> None:
    """A decode that finds the same text prolongs its segment."""
    (first, said), _ = different
    shifted = np.array(Image.open(BytesIO(first)).convert("RGB"))
    shifted[0, 0] ^= 1
    with watching(live, threshold=1e-12) as client:
        client.send(*[first, png(shifted)] * 3)
        client.say(type="finish")
        client.closed()
    assert client.heard[-1]["decodes"] > client.heard[-1]["segments"] == 1
    assert [one["text"] for one in client.all_of("segment")] == [said]
    assert [one["end"]["frame"] for one in client.all_of("segment_end")] == [5]


def test_frames_as_json_keep_their_timestamps(live: Live, different: list[tuple[bytes, str]]) -> None:
    with watching(live, **SENSITIVE) as client:
        for number in range(5):
            image = base64_of(different[number >= 3][0])
            client.say(type="frame", image=image, timestamp=100 + number / 2)
            client.hear_until("ack")
        client.say(type="finish")
        client.closed()
    assert [one["start"]["timestamp"] for one in client.all_of("segment")] == [100, 101.5]
    assert [one["end"] for one in client.all_of("segment_end")] == [
        {"frame": 2, "timestamp": 101.0},
        {"frame": 4, "timestamp": 102.0},
    ]


def test_a_segment_may_settle_before_it_is_spoken(live: Live, different: list[tuple[bytes, str]]) -> None:
    (first, said), (second, other) = different
    with watching(live, settle=3, window=2, **SENSITIVE) as client:
        client.send(*[first] * 5, *[second] * 2)
        client.say(type="finish")
        client.closed()
    segments = client.all_of("segment")
    assert [(one["start"]["frame"], one["spoken"]["frame"]) for one in segments] == [(0, 2), (5, 6)]
    assert [one["text"] for one in segments] == [said, other]
    assert [one["end"]["frame"] for one in client.all_of("segment_end")] == [4, 6]


def test_an_interval_lets_the_threshold_follow(live: Live, different: list[tuple[bytes, str]]) -> None:
    """At a threshold that no change exceeds, only one that follows its stream speaks again."""
    frames = [different[number % 4 > 1][0] for number in range(28)]
    pixels = [np.array(Image.open(BytesIO(frame))) for frame, _ in different]
    first, second = live.run(live.service.models.get(MODEL).embed_images(pixels, [DESCRIBE] * 2))
    threshold, segments = 4 * float(np.square(first - second).sum()), []
    for asked in ({}, {"interval": 2}):
        with watching(live, threshold=threshold, **asked) as client:
            client.send(*frames)
            client.say(type="finish")
            client.closed()
        segments.append(client.heard[-1]["segments"])
    assert segments[0] == 1 < segments[1]


def test_a_frame_that_is_no_image_is_skipped_by_its_number(live: Live, different: list[tuple[bytes, str]]) -> None:
    huge, broken = picture(size=(6000, 6000)), different[0][0][:2000]
    with watching(live, **SENSITIVE) as client:
        client.send(different[0][0], b"no image", bytes(2**20 + 1), huge, broken, different[1][0])
        client.say(type="finish")
        assert client.closed() == 1000
    found = [(one["frame"], one["problem"]["type"].rpartition(":")[2]) for one in client.all_of("problem")]
    assert found == [(1, "unsupported-media-type"), (2, "too-large"), (3, "too-large"), (4, "invalid")]
    assert [one["start"]["frame"] for one in client.all_of("segment")] == [0, 5]
    assert (client.heard[-1]["frames"], client.heard[-1]["refused"]) == (6, 4)


CONFIGURATIONS = [
    ({"treshold": 1}, "invalid", "did you mean 'threshold'?"),
    ({"threshold": 0}, "invalid", "threshold: must be greater than 0"),
    ({"model": "scenes-token"}, "invalid", "must be able to speak vectors"),
    ({"model": "nobody"}, "not-found", "'nobody'"),
    ({"overload": "wait"}, "invalid", "overload: must be 'close' or 'drop'"),
]


@pytest.mark.parametrize(("asked", "slug", "named"), CONFIGURATIONS)
def test_a_mistake_in_the_configuration_is_named(live: Live, asked: dict[str, Any], slug: str, named: str) -> None:
    with watching(live, ready=False, **asked) as client:
        assert client.closed() == 1008
    assert named in client.problem(slug)["detail"]
    assert client.heard[-1]["type"] == "end"


def test_what_is_no_message_is_refused(live: Live) -> None:
    for sent, slug in ((b"frame", "malformed"), ("{", "malformed")):
        with connect(live.url.replace("http", "ws") + "/v1/stream") as connection:
            connection.send(sent)
            client = Watching(connection)
            assert client.closed() == 1008
            client.problem(slug)
    for message in ({"type": "fin"}, {"type": "frame", "image": "http://x/y.png"}, {"type": "finish", "a": 1}):
        with watching(live) as client:
            client.say(**message)
            assert client.closed() == 1008
            client.problem("invalid")


def test_frames_beyond_the_credit_end_the_stream(small: Live, different: list[tuple[bytes, str]]) -> None:
    with small.busy(MODEL), watching(small) as client:
        assert client.heard[0]["credit"] == 3
        for _ in range(4):
            client.connection.send(different[0][0])
        assert client.closed() == 1008
        assert "4 frames are not acknowledged and at most 3 may be" in client.problem("rate-limited")["detail"]
    assert client.heard[-1]["frames"] == 0


def test_or_the_oldest_that_waits_is_dropped(small: Live, different: list[tuple[bytes, str]]) -> None:
    """A flood of frames: memory holds the credit and one, and the newest is watched."""
    with watching(small, overload="drop", **SENSITIVE) as client:
        with small.busy(MODEL) as model:
            client.connection.send(different[0][0])
            wait_for(lambda: model.stats.queued == 1)  # this one is being watched
            for _ in range(50):
                client.connection.send(different[0][0])
            client.connection.send(different[1][0])
            (session,) = small.service.streams._sessions
            intake = session._intake  # type: ignore[attr-defined]
            wait_for(lambda: intake.received == 52)
            assert (len(intake), intake.dropped) == (2, 49)
        client.say(type="finish")
        assert client.closed() == 1000
    assert (client.heard[-1]["frames"], client.heard[-1]["dropped"]) == (52, 49)
    assert client.all_of("segment")[-1]["text"] == different[1][1]
    assert client.all_of("segment")[-1]["start"]["frame"] == 51


def test_a_client_that_leaves_frees_its_place_and_nothing_is_computed_for_it(
    small: Live, different: list[tuple[bytes, str]]
) -> None:
    with small.busy(MODEL) as model:
        dropped = model.stats.dropped["cancelled"]
        with watching(small) as client:
            client.connection.send(different[0][0])
            wait_for(lambda: model.stats.queued == 1)
            assert small.service.streams.open == 1
            client.connection.socket.close()  # without a word
            wait_for(lambda: small.service.streams.open == 0)
        assert model.stats.queued == 0
        assert model.stats.dropped["cancelled"] == dropped + 1
    assert small.service.streams._sessions == set()


def test_a_client_that_takes_nothing_is_given_up(entries: tuple[str, ...], different: list[tuple[bytes, str]]) -> None:
    """What is written for it waits for it, and nothing is watched meanwhile."""
    with serving(models=entries, backend="torch", stream_idle_seconds=0.2) as live:
        taken: list[Any] = []
        said = [
            {"type": "websocket.connect"},
            {"type": "websocket.receive", "text": "{}"},
            *[{"type": "websocket.receive", "bytes": different[0][0]}] * 3,
        ]

        async def receive() -> Any:
            return said.pop(0) if said else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            taken.append(message)
            if len(taken) > 2:  # accepted and ready
                await asyncio.Event().wait()

        scope = {
            "type": "websocket",
            "path": "/v1/stream",
            "headers": [],
            "subprotocols": [],
            "query_string": b"",
            "server": ("127.0.0.1", live.port),
        }
        with capture_logs() as logs:
            live.run(live.app(scope, receive, send))
        (record,) = (one for one in logs if one["event"] == "stream")
        assert (record["end"], record["code"], record["frames"]) == ("left", 1006, 0)
        assert live.service.streams.open == 0


def test_a_full_queue_holds_a_stream_up_and_does_not_end_it(small: Live, different: list[tuple[bytes, str]]) -> None:
    async def fill() -> None:
        await small.service.models.get(MODEL).embed_texts([str(number) for number in range(4)])

    with watching(small) as client:
        with small.busy(MODEL) as model:
            assert small.loop is not None
            others = asyncio.run_coroutine_threadsafe(fill(), small.loop)
            wait_for(lambda: model.stats.queued == 4)
            refused = model.stats.dropped["refused"]
            client.connection.send(different[0][0])
            wait_for(lambda: model.stats.dropped["refused"] > refused)
        others.result()
        assert client.hear_until("ack")["frames"] == 1


def test_streams_are_bounded_in_number(small: Live) -> None:
    with watching(small), watching(small), pytest.raises(InvalidStatus) as refused, watching(small):
        pass
    response = refused.value.response
    assert response.status_code == 429
    assert response.headers["retry-after"] == "1"
    assert json.loads(response.body)["detail"] == "2 streams are open, as many as allowed."
    wait_for(lambda: small.service.streams.open == 0)
    with watching(small):
        pass


def test_a_flood_does_not_starve_another_stream(small: Live, different: list[tuple[bytes, str]]) -> None:
    enough = threading.Event()

    def flood() -> None:
        with watching(small, overload="drop") as client:
            while not enough.is_set():
                client.connection.send(different[0][0])
            client.say(type="finish")
            client.closed()
        assert client.heard[-1]["dropped"] > 0

    other = threading.Thread(target=flood)
    other.start()
    with watching(small, **SENSITIVE) as client:
        client.send(*(different[number % 2][0] for number in range(6)))
        client.say(type="finish")
        assert client.closed() == 1000
    assert other.is_alive()
    enough.set()
    other.join()
    assert client.heard[-1]["segments"] == 6


def test_a_stream_without_frames_is_ended(entries: tuple[str, ...]) -> None:
    with serving(models=entries, backend="torch", stream_idle_seconds=0.05) as live, watching(live) as client:
        assert client.closed() == 1008
        assert "end a stream with 'finish'" in client.problem("slow-body")["detail"]


def test_a_configuration_that_does_not_come_is_given_up(entries: tuple[str, ...]) -> None:
    with serving(models=entries, backend="torch", body_seconds=0.05) as live:
        with connect(live.url.replace("http", "ws") + "/v1/stream") as connection:
            client = Watching(connection)
            assert client.closed() == 1008
        client.problem("slow-body")


def test_a_broken_engine_ends_the_stream_with_1011(small: Live, different: list[tuple[bytes, str]]) -> None:
    with watching(small) as client:
        client.send(different[0][0])
        with broken(small.service.models.get(MODEL)):
            client.connection.send(different[0][0])
            assert client.closed() == 1011
        assert client.problem("engine-failed")["detail"].endswith("has failed; ask again, it is being looked after.")
    assert [one["end"]["frame"] for one in client.all_of("segment_end")] == [0]
    small.wait_until_ready()


def test_a_defect_ends_the_stream_with_1011_and_its_traceback_is_in_the_log_alone(
    live: Live, monkeypatch: pytest.MonkeyPatch, different: list[tuple[bytes, str]]
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("secret detail of the inside")

    monkeypatch.setattr(live.service.images, "read", broken)
    with capture_logs() as logs, watching(live) as client:
        client.connection.send(different[0][0])
        assert client.closed() == 1011
        assert "secret" not in json.dumps(client.problem("internal"))
    assert [one["event"] for one in logs if one["log_level"] == "error"] == ["defect"]


def test_a_model_that_is_unloaded_ends_its_streams_and_waits_for_none(
    only: dict[str, Any], engines: str, different: list[tuple[bytes, str]]
) -> None:
    with serving(**only, engines=engines) as live, watching(live) as client:
        client.send(different[0][0])
        live.run(live.service.unload(MODEL))
        client.connection.send(different[0][0])
        assert client.closed() == 1012
        client.problem("not-ready")


def test_the_end_of_the_service_ends_streams_in_good_order(
    only: dict[str, Any], engines: str, different: list[tuple[bytes, str]]
) -> None:
    (first, said), _ = different
    with serving(**only, engines=engines) as live, watching(live, settle=9) as client:
        with live.busy(MODEL) as model:
            client.connection.send(first)
            wait_for(lambda: model.stats.queued == 1)
            assert live.loop is not None
            live.loop.call_soon_threadsafe(live.service.streams.end)
            client.connection.send(first)  # too late, or not: either is well
        assert client.closed() == 1001
        assert [one["text"] for one in client.all_of("segment")] == [said]
        assert client.heard[-1]["type"] == "end"
        with pytest.raises(InvalidStatus) as refused, watching(live):
            pass
        assert refused.value.response.status_code == 503


def test_what_a_stream_does_is_counted_and_logged_once(
    live: Live, client: Any, different: list[tuple[bytes, str]]
) -> None:
    def value(line: str) -> float:
        found = [one for one in client.get("/metrics").text.splitlines() if one.startswith(f"archlab_{line} ")]
        return float(found[0].rpartition(" ")[2]) if found else 0.0

    wait_for(lambda: live.service.streams.open == 0)
    names = [
        'stream_frames_total{outcome="watched"}',
        'stream_frames_total{outcome="refused"}',
        'streams_total{end="1000"}',
    ]
    names += ["stream_segments_total", "stream_decodes_total"]
    before = [value(name) for name in names]
    with capture_logs() as logs:
        with watching(live, options={"additional_headers": {"X-Request-Id": "watch-1"}}, **SENSITIVE) as stream:
            stream.send(different[0][0], b"no image", different[1][0])
            assert value("streams_open") == 1
            stream.say(type="finish")
            stream.closed()
        wait_for(lambda: live.service.streams.open == 0)
    assert [value(name) - old for name, old in zip(names, before, strict=True)] == [2, 1, 1, 2, 2]
    (record,) = (one for one in logs if one["event"] == "stream")
    facts = ("request_id", "caller", "model", "code", "frames", "refused", "segments")
    assert [record[name] for name in facts] == ["watch-1", "local", MODEL, 1000, 3, 1, 2]
    assert not any(said in str(record) for _, said in different)


def test_the_example_of_the_guide_watches(live: Live, different: list[tuple[bytes, str]], tmp_path: Path) -> None:
    (first, said_first), (second, said_second) = different
    for number, frame in enumerate([first] * 3 + [second] * 9):
        (tmp_path / f"{number:02}.png").write_bytes(frame)
    url = live.url.replace("http", "ws") + "/v1/stream"
    clip = write_clip(tmp_path.parent / f"{tmp_path.name}.mp4", greys(12), rate=4)  # three seconds
    for source, frames in (([str(tmp_path)], 12), (["--drawn", "10"], 10), ([str(clip), "--rate", "3"], 9)):
        command = [sys.executable, str(EXAMPLE), *source, "--url", url, "--threshold", "0.001"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        *said, last = done.stdout.splitlines()
        assert last.startswith(f"{frames} frames, ")
        if frames == 12:
            assert [line.split(" s  ", 1)[1] for line in said] == [said_first, said_second]


@pytest.fixture
def keys(tmp_path: Path) -> Callable[..., str]:
    return lambda name, *rest: create_key(tmp_path / "keys.json", name, *rest)


@pytest.fixture
def guarded(entries: tuple[str, ...], tmp_path: Path, keys: Callable[..., str]) -> Iterator[Live]:
    keys("first")
    with serving(models=entries, backend="torch", api_keys=tmp_path / "keys.json") as live:
        yield live


def test_a_stream_needs_a_key_that_may_read(guarded: Live, keys: Callable[..., str]) -> None:
    reader, writer = keys("reader"), keys("writer", ["write"])
    for shown, status in ((None, 401), ("archlab_reader_0", 401), (writer, 403)):
        headers = {"Authorization": f"Bearer {shown}"} if shown else {}
        with capture_logs() as logs:
            with (
                pytest.raises(InvalidStatus) as refused,
                watching(guarded, options={"additional_headers": headers}),
            ):
                pass
            wait_for(lambda: any(one["event"] == "audit" for one in logs))  # written once the answer has left
        assert refused.value.response.status_code == status
        (record,) = (one for one in logs if one["event"] == "request")
        assert (record["route"], record["status"]) == ("/v1/stream", status)
        assert [one["action"] for one in logs if one["event"] == "audit"] == ["GET /v1/stream"]
    with watching(guarded, options={"additional_headers": {"Authorization": f"Bearer {reader}"}}):
        pass


def test_a_browser_shows_its_key_as_a_subprotocol_which_is_not_sent_back(
    guarded: Live, keys: Callable[..., str]
) -> None:
    offers = ["archlab.v1", f"archlab.key.{keys('page')}"]
    with watching(guarded, options={"subprotocols": offers}) as client:
        assert client.connection.subprotocol == "archlab.v1"
    with pytest.raises(InvalidStatus), watching(guarded, options={"subprotocols": ["archlab.v1", "archlab.key.no"]}):
        pass


def test_a_revoked_key_ends_its_stream(
    guarded: Live, keys: Callable[..., str], tmp_path: Path, different: list[tuple[bytes, str]]
) -> None:
    headers = {"Authorization": f"Bearer {keys('short')}"}
    with watching(guarded, options={"additional_headers": headers}) as client:
        client.send(different[0][0])
        revoke_key(tmp_path / "keys.json", "short")
        client.connection.send(different[0][0])
        assert client.closed() == 1008
        client.problem("unauthenticated")


def test_frames_count_against_the_rate_limit_of_the_key_which_holds_their_credit_back(
    guarded: Live, keys: Callable[..., str], different: list[tuple[bytes, str]]
) -> None:
    headers = {"Authorization": f"Bearer {keys('slow', ['read'], 0.001, 3)}"}
    with watching(guarded, options={"additional_headers": headers}) as client:
        client.send(different[0][0], different[0][0])  # the connection itself was the first item
        for _ in range(9):
            client.connection.send(different[0][0])
        assert client.closed() == 1008
        client.problem("rate-limited")
    assert client.heard[-1]["frames"] == 2
