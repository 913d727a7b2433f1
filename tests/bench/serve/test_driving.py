"""Which generator asks, and that both ask the same and tell the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
from tests.bench.serve.recorder import needs_wrk, recording

from archlab.bench.serve import with_locust, with_wrk, workload
from archlab.bench.serve.driving import choose_generator, drive
from archlab.bench.serve.load import Generator, Load
from archlab.bench.serve.record import Record
from archlab.bench.serve.workload import Kind
from archlab.cli import main
from archlab.errors import UserError

GENERATORS = [pytest.param("wrk", marks=needs_wrk), "locust"]


def load(generator: Generator = "wrk", **how: Any) -> Load:
    return Load(**{"generator": generator, "users": 1, "seconds": 1, "warmup": 0.5, **how})


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """So few bodies that they come again within a run."""
    bodies = [b'{"text": "%d"}' % number for number in range(8)]
    monkeypatch.setattr(workload, "bodies", lambda *_: tuple(bodies))
    return bodies


def record_keys() -> set[str]:
    """That every step has, from whichever generator."""
    record = Record()
    record.begin()
    record.add("search", 0.1, None)
    record.end()
    return record.summary(1).keys() - {"kinds", "p95_of_tenths_ms"}  # these are for the scenarios alone


def test_wrk_asks_where_it_is_installed_and_locust_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert choose_generator("auto") == "locust"
    (tmp_path / "wrk").write_text("#!/bin/sh\n")
    (tmp_path / "wrk").chmod(0o755)
    assert choose_generator("auto") == choose_generator("wrk") == "wrk"
    assert choose_generator("locust") == "locust"


def test_wrk_that_is_wanted_and_missing_is_one_line_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="not installed"):
        choose_generator("wrk")
    assert main(["bench", "serve", "--generator", "wrk", "--run", "nowhere"]) == 2
    told = capsys.readouterr().err
    assert "apt-get install wrk" in told
    assert "--generator locust" in told
    assert len(told.strip().splitlines()) == 1


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("kind", get_args(Kind))
def test_both_generators_ask_the_requests_of_the_workload(generator: Generator, kind: Kind) -> None:
    model = "mine" if kind in ("classify", "caption") else ""
    with recording() as asked:
        found = drive(asked.url, "a-key", load(generator, kind=kind, model=model))
    assert found["requests"] > 0
    assert {body for own in asked.bodies for body in own} <= set(workload.bodies(kind, model or None))
    assert asked.about == {(workload.path(kind), "Bearer a-key", "application/json")}


@pytest.mark.parametrize("generator", GENERATORS)
def test_both_generators_tell_the_same_of_a_step(generator: Generator) -> None:
    with recording() as asked:
        found = drive(asked.url, "", load(generator, users=2))
    assert found.keys() >= record_keys()
    assert (found["users"], found["errors"], found["error_kinds"]) == (2, 0, {})
    assert found["throughput_per_s"] == pytest.approx(found["requests"] / found["seconds"], rel=0.01)
    assert 0 < found["p50_ms"] <= found["p95_ms"] <= found["p99_ms"] <= found["max_ms"]
    assert 0 <= found["idle_share"] < 1
    assert 0 < found["generator_cores"] < 2
    assert {key for _, key, _ in asked.about} == {None}  # no key, no header


@pytest.mark.parametrize("generator", GENERATORS)
def test_an_answer_of_500_is_an_error_and_no_request(generator: Generator) -> None:
    refused = workload.bodies("popular")[::2]
    with recording(lambda body: 500 if body in refused else 200) as asked:
        found = drive(asked.url, "", load(generator, kind="popular"))
    bodies = [body for own in asked.bodies for body in own]
    # The last of a run may still be under way, and of those of the warm-up only the errors count.
    assert 0 < found["errors"] <= sum(body in refused for body in bodies)
    assert 0 < found["requests"] <= sum(body not in refused for body in bodies)
    with recording(lambda _: 500) as asked:
        found = drive(asked.url, "", load(generator))
    assert found["requests"] == 0
    assert found["errors"] > 0
    assert found["error_kinds"]
    assert "p95_ms" not in found


@needs_wrk
def test_an_error_while_wrk_warms_up_is_one_of_the_step(few: list[bytes]) -> None:
    with recording(lambda _: 500 if len(asked.bodies) == 1 else 200) as asked:
        found = drive(asked.url, "", load())
    assert found["requests"] > 0
    assert found["error_kinds"].keys() == {"status"}
    assert found["errors"] == found["error_kinds"]["status"] > 0


@needs_wrk
def test_wrk_asks_every_body_once_before_any_comes_again(few: list[bytes]) -> None:
    with recording() as asked:
        drive(asked.url, "", load())
    warm, measured = asked.bodies  # a run each
    for own in (warm, measured):
        assert len(own) > len(few)
        turns = [own[start : start + len(few)] for start in range(0, len(own) - len(few), len(few))]
        assert all(sorted(turn) == few for turn in turns)


@needs_wrk
def test_every_run_of_wrk_begins_elsewhere(few: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    places = iter([2, 7, 5, 0])
    counts: list[int] = []
    monkeypatch.setattr(with_wrk, "randrange", lambda count: counts.append(count) or next(places))
    with recording() as asked:
        for _ in range(2):
            drive(asked.url, "", load())
    assert counts == [len(few)] * 4
    begun = [few.index(own[0]) for own in asked.bodies]
    assert [(place - begun[0]) % len(few) for place in begun] == [0, 5, 3, 6]


@needs_wrk
def test_wrk_measures_whole_seconds_rounded_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    ran = {"requests": 1, "seconds": 1.0, "error_kinds": {}}
    monkeypatch.setattr(
        with_wrk, "_run", lambda command, _: asked.append(command[command.index("--duration") + 1]) or ran
    )
    drive("http://127.0.0.1:9", "", load(seconds=2.1, warmup=0.5))
    assert asked == ["1s", "3s"]


@needs_wrk
def test_wrk_that_measures_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="wrk measured nothing and ended with 1: unable to connect"):
        drive("http://127.0.0.1:9", "", load())
    monkeypatch.setattr(with_wrk, "_SCRIPTS", tmp_path)  # without its script wrk asks something else, and ends with 0
    with recording() as asked, pytest.raises(RuntimeError, match=r"replay\.lua"):
        drive(asked.url, "", load())


def test_locust_that_measures_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(with_locust, "USERS", tmp_path / "missing.py")
    with pytest.raises(RuntimeError, match="locust measured nothing"):
        drive("http://127.0.0.1:9", "", load("locust"))
