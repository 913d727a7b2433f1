from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from tests.bench.serve.synthetic import step

from archlab.bench.serve.contest import OURS, check_same_hits, compared, side_by_side, try_variants
from archlab.bench.serve.peers.variants import HTTP, LITSERVE, PEERS, SESSION, TORCH, Variant, variants

FAST, SLOW = (Variant(TORCH, "handler", "torch", {"threads": threads}) for threads in ("1", "2"))


@contextmanager
def started(way: Variant) -> Any:
    yield way


class Still:
    """A server that knows whether it runs."""

    def __init__(self, name: str, hits: tuple[str, ...] = (), status: int = 200) -> None:
        self.name, self.hits, self.status, self.runs = name, hits, status, False

    def pause(self) -> None:
        self.runs = False

    def resume(self) -> None:
        self.runs = True

    def ask(self, _: bytes) -> httpx.Response:
        return httpx.Response(self.status, json={"hits": [{"id": name} for name in self.hits]})


def test_every_way_is_tried_and_the_fastest_without_errors_is_taken() -> None:
    broken = Variant(TORCH, "handler", "torch", {"threads": "9"})
    rates = {"1": 500.0, "2": 400.0, "9": 900.0}

    def measure(way: Any) -> dict[str, Any]:
        threads = way.settings["threads"]
        return step(rate=rates[threads], errors=int(way is broken))

    tried, fastest = try_variants([SLOW, FAST, broken], started, measure)
    assert fastest == {TORCH: FAST}
    assert [way["settings"]["threads"] for way in tried[TORCH]] == ["2", "1", "9"]


def test_a_peer_that_fails_in_every_way_is_no_victory() -> None:
    with pytest.raises(RuntimeError, match="FastAPI, torch: errors in every way"):
        try_variants([SLOW, FAST], started, lambda _: step(errors=1))


def test_servers_take_turns_alone_and_every_round_begins_with_another_one() -> None:
    servers = {name: Still(name) for name in (OURS, TORCH, SESSION)}
    order = []

    def measure(server: Still) -> dict[str, Any]:
        assert [one.name for one in servers.values() if one.runs] == [server.name]
        order.append(server.name)
        return step()

    found = side_by_side(servers, measure, rounds=2)
    assert order == [OURS, TORCH, SESSION, TORCH, SESSION, OURS]
    assert {len(one["rounds"]) for one in found.values()} == {2}


def test_a_server_that_answers_nothing_ends_the_comparison() -> None:
    servers = {OURS: Still(OURS), TORCH: Still(TORCH)}
    with pytest.raises(RuntimeError, match="FastAPI, torch: no request was answered"):
        side_by_side(servers, lambda one: {**step(), "requests": int(one.name == OURS)}, rounds=1)


def test_ratios_are_taken_round_by_round() -> None:
    ours = [step(rate=rate, p95=50) for rate in (1000.0, 2000.0, 1500.0)]  # a machine whose speed drifts
    theirs = [step(rate=rate / 2, p95=100) for rate in (1000.0, 2000.0, 1500.0)]
    found = compared(theirs, ours)
    assert found["times_throughput"] == {"value": 2, "low": 2, "high": 2}
    assert found["times_p95"]["value"] == 0.5
    assert found["throughput_per_s"] == 750


def test_a_peer_that_finds_something_else_is_refused() -> None:
    same = {OURS: Still(OURS, ("a", "b")), TORCH: Still(TORCH, ("b", "a"))}
    assert check_same_hits(same) == {TORCH: 1}  # type: ignore[arg-type]
    other = {**same, LITSERVE: Still(LITSERVE, ("a", "c"))}
    with pytest.raises(RuntimeError, match=r"equal work.*LitServe.*0\.5"):
        check_same_hits(other)  # type: ignore[arg-type]


def test_a_server_without_work_is_asked_for_no_hits() -> None:
    servers = {OURS: Still(OURS, ("a",)), HTTP: Still(HTTP, status=500), TORCH: Still(TORCH, ("a",))}
    assert check_same_hits(servers) == {TORCH: 1}  # type: ignore[arg-type]


def test_a_peer_that_refuses_a_search_is_told_with_its_answer_and_held_still_again() -> None:
    broken = Still(TORCH, status=500)
    with pytest.raises(RuntimeError, match=r"FastAPI, torch: a search was answered 500 .*hits"):
        check_same_hits({OURS: Still(OURS, ("a",)), TORCH: broken})  # type: ignore[dict-item]
    assert not broken.runs


def test_every_peer_is_tried_in_several_ways_with_our_backend_or_in_torch() -> None:
    ways = variants("onnx-int8")
    assert {peer: sum(way.peer == peer for way in ways) for peer in PEERS} == {TORCH: 4, SESSION: 2, LITSERVE: 8}
    assert [way.settings for way in ways if way.peer == HTTP] == [{"style": "constant"}]
    assert {way.backend for way in ways if way.peer != TORCH} == {"onnx-int8"}
    arguments = FAST.arguments("run", "index", "captions", "/search")
    assert arguments[0] == "archlab.bench.serve.peers.handler"
    assert arguments[arguments.index("--port") + 1] == "{port}"
    assert arguments[arguments.index("--threads") + 1] == "1"
