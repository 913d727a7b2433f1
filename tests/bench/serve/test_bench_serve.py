"""`archlab bench serve` as a whole, tiny: the real service, the real peers, the real load generator."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from archlab.bench.serve import ours
from archlab.bench.serve.collection import build_collection
from archlab.bench.serve.command import OVER_TIME, Plan, _start_peer, bench_serve
from archlab.bench.serve.contest import OURS
from archlab.bench.serve.images import image_floor
from archlab.bench.serve.peers.variants import HTTP, LITSERVE, SESSION, TORCH, Variant
from archlab.bench.serve.report import markdown
from archlab.bench.serve.workload import COLLECTION
from archlab.cli import main
from archlab.cost.measurements import read_measurements
from archlab.errors import UserError
from archlab.index.embedded import EmbeddedIndex
from archlab.serve.opening import open_engine
from archlab.serve.vision_engine import VisionEngine

WAYS = [
    Variant(TORCH, "handler", "torch", {"style": "def", "threads": "1"}),
    Variant(SESSION, "handler", "torch", {"style": "async"}),
    Variant(LITSERVE, "litserve", "torch", {"workers": "1", "queue": "zmq", "batch-timeout": "0.001"}),
    Variant(HTTP, "handler", "torch", {"style": "constant"}),
]
TINY = Plan(
    points=50,
    users=2,
    image_users=1,
    most_users=8,
    rounds=1,
    turn=1.0,
    seconds=1.0,
    warmup=0.5,
    goal_ms=60_000,
    scenarios=2.0,
    soak=3.0,
)


@pytest.mark.slow
def test_the_whole_benchmark_runs_and_its_results_can_be_priced(
    talkative_run: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tuple(f"{arm}={talkative_run(arm)}" for arm in ("token", "vljepa"))
    results = bench_serve(runs, plan=TINY, backend="torch", ways=WAYS, out=tmp_path / "out")
    assert set(results["side_by_side"]) == {OURS, TORCH, SESSION, LITSERVE, HTTP}
    assert {one["errors"] for one in results["side_by_side"].values()} == {0}
    assert results["same_hits"] == {TORCH: 1, SESSION: 1, LITSERVE: 1}
    best = results["capacity"]["best"]
    assert best["users"] == 8
    service = results["service"]
    assert service["requests_counted"] >= best["requests"]
    # Those of users that were being stopped may be in the one and not yet in the other.
    assert abs(service["requests_logged"] - service["requests_counted"]) <= best["users"]
    assert service["texts_cached"] < service["texts_embedded"] / 10  # the first searches, until the service answers
    assert results["cache"]["without"]["share"] < 0.1 < results["cache"]["with"]["share"]
    assert results["cache"]["with"]["users"] == best["users"]
    # Several steps, each by users who begin at another text.
    assert results["cache"]["side_by_side"]["share"] < 0.1
    assert results["scenarios"]["classify"]["token"]["share_of_floor"] > 0
    assert {name: one["errors"] for name, one in results["over_time"].items()} == dict.fromkeys(OVER_TIME, 0)
    assert results["over_time"]["mixed"]["kinds"].keys() >= {"search", "classify"}
    assert all(mib > 100 for one in results["over_time"].values() for mib in one["memory_mib"])
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == json.loads(json.dumps(results))
    assert (tmp_path / "out" / "results.md").read_text() == markdown(results)
    assert (tmp_path / "out" / "capacity.png").is_file()
    priced = {(one.what, one.arm) for one in read_measurements(tmp_path / "out" / "results.json")}
    assert priced == {
        ("search", "vljepa"),
        *((what, arm) for what in ("classify", "caption") for arm in ("vljepa", "token")),
    }
    assert "Side by side" in capsys.readouterr().out


def test_peers_that_run_side_by_side_write_logs_of_their_own(tmp_path: Path) -> None:
    servers = [_start_peer(way, run=tmp_path, index=tmp_path, work=tmp_path) for way in WAYS]
    for server in servers:
        server.end()
    assert len({server.log for server in servers}) == len(WAYS)


@pytest.fixture
def engine(talkative_run: Callable[[str], Path]) -> VisionEngine:
    found = open_engine(talkative_run("vljepa"), "torch")
    assert isinstance(found, VisionEngine)
    return found


def test_the_index_holds_the_models_own_vectors_and_is_built_once(engine: VisionEngine) -> None:
    place = build_collection(engine, "mine", 20)
    stamp = place.stat().st_mtime_ns
    assert build_collection(engine, "mine", 20) == place
    assert place.stat().st_mtime_ns == stamp
    with EmbeddedIndex(place) as index:
        collection = index.open(COLLECTION)
        (batch,) = collection.scan()
        assert (len(batch), collection.spec.model, collection.spec.model_name) == (20, engine.about.digest, "mine")
        text = str(batch.metadata[3]["text"])
        assert collection.search(engine.embed_texts([text])[0], 1)[0].metadata["text"] == text


def test_the_floor_of_an_image_is_its_decoding_and_its_fastest_computing(engine: VisionEngine) -> None:
    ticks = iter(range(10_000))
    found = image_floor(engine, rounds=2, clock=lambda: float(next(ticks)))
    assert found["decode_ms"] == 1000  # one tick of this clock
    assert found["compute_ms"] == {"1": 1000, "8": 125, "32": 31.25}
    assert found["floor_ms"] == 1031.25


def test_the_first_run_of_each_arm_is_served(talkative_run: Callable[[str], Path]) -> None:
    token, vljepa = (talkative_run(arm) for arm in ("token", "vljepa"))
    models = ours.open_models((f"a={token}", f"b={vljepa}", f"c={vljepa}"), "torch")
    assert {arm: model.name for arm, model in models.items()} == {"vljepa": "b", "token": "a"}
    with pytest.raises(UserError, match="has no run of the vljepa arm"):
        ours.open_models((f"a={token}",), "torch")


@pytest.mark.parametrize(
    ("options", "named"),
    [(["--run", "nowhere"], "nowhere is no folder"), (["--seconds", "0"], "seconds=0.0: must be positive")],
)
def test_a_mistake_is_one_line_that_names_it(
    options: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "serve", *options]) == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["litserve", "locust"])
def test_a_package_that_is_missing_is_named_before_anything_starts(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("archlab.bench.serve.command.find_spec", lambda name: None if name == missing else find(name))
    assert main(["bench", "serve", "--run", "nowhere"]) == 2
    assert f"{missing!r} is missing; install it with: pip install {missing}" in capsys.readouterr().err
