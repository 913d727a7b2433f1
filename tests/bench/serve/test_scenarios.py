"""Every scenario for a few seconds against a live service: it runs, it asks, and nothing fails."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.bench.serve.recorder import needs_wrk, recording
from tests.serve.live import Live, picture, serving

from archlab.bench.serve.driving import drive
from archlab.bench.serve.load import Generator, Load
from archlab.bench.serve.workload import COLLECTION
from archlab.serve.auth import create_key

FOLDER = Path(__file__).resolve().parents[3] / "08-scalability"
WRK = shutil.which("wrk")


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    return file, create_key(file, "load", ("read", "write"), requests_per_second=1e6, burst=10**6)


@pytest.fixture(scope="module")
def target(
    talkative_run: Callable[[str], Path], key_file: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Live]:
    """A service of both arms with keys and a collection of texts."""
    file, key = key_file
    index = str(tmp_path_factory.mktemp("index") / "index")
    models = tuple(f"scenes-{arm}={talkative_run(arm)}" for arm in ("token", "vljepa"))
    with serving(models=models, backend="torch", api_keys=file, index=index) as live:
        with live.client(headers={"Authorization": f"Bearer {key}"}) as client:
            assert client.post("/v1/collections", json={"name": COLLECTION}).status_code == 201
            points = [{"id": str(number), "text": f"a circle and {number} squares"} for number in range(20)]
            assert client.put(f"/v1/collections/{COLLECTION}/points", json={"points": points}).status_code == 200
        yield live


def locust(scenario: str, target: Live, key: str, result: Path) -> dict[str, Any]:
    settings = {"LOAD_USERS": "2", "LOAD_SECONDS": "3", "LOAD_WARMUP": "0.5", "LOAD_PAUSE": "0.02"}
    settings |= {"ARCHLAB_API_KEY": key, "LOAD_RESULT": str(result)}
    command = [sys.executable, "-m", "locust", "--locustfile", str(FOLDER / f"{scenario}.py"), "--headless"]
    done = subprocess.run([*command, "--host", target.url], env=os.environ | settings, capture_output=True, text=True)
    assert result.is_file(), done.stderr
    found: dict[str, Any] = json.loads(result.read_text())
    assert done.returncode == (1 if found["errors"] else 0), done.stderr
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scenario", "kinds"),
    [
        ("steady", {"search"}),
        ("spike", {"search"}),
        ("soak", {"search", "classify", "caption"}),
        ("mixed", {"search", "classify", "caption"}),
    ],
)
def test_a_scenario_runs_without_an_error(
    scenario: str, kinds: set[str], target: Live, key_file: tuple[Path, str], tmp_path: Path
) -> None:
    found = locust(scenario, target, key_file[1], tmp_path / "result.json")
    assert found["error_kinds"] == {}
    assert found["requests"] > 0
    assert found["kinds"].keys() <= kinds
    assert "search" in found["kinds"]


def test_a_scenario_notices_errors(target: Live, tmp_path: Path) -> None:
    found = locust("steady", target, "archlab_nobody_00", tmp_path / "result.json")
    assert found["errors"] > 0
    assert found["requests"] == 0
    assert any("401" in kind for kind in found["error_kinds"])


@pytest.mark.parametrize("generator", [pytest.param("wrk", marks=needs_wrk), "locust"])
def test_a_step_of_the_benchmark_asks_the_model_that_it_is_told_to(
    generator: Generator, target: Live, key_file: tuple[Path, str]
) -> None:
    asked = target.service.metrics.batch_items.labels("scenes-token")._sum
    before = asked.get()
    load = Load(generator=generator, kind="classify", users=1, seconds=1, warmup=0.2, model="scenes-token")
    found = drive(target.url, key_file[1], load)
    assert (found["errors"], found["users"]) == (0, 1)
    assert asked.get() - before >= found["requests"] > 0


@needs_wrk
@pytest.mark.parametrize("script", ["search", "classify", "mixed"])
def test_a_script_of_wrk_runs_without_an_error(
    script: str, target: Live, key_file: tuple[Path, str], tmp_path: Path
) -> None:
    (tmp_path / "image.png").write_bytes(picture())
    settings = {"ARCHLAB_API_KEY": key_file[1], "IMAGE": str(tmp_path / "image.png")}
    command = [str(WRK), "--threads", "1", "--connections", "2", "--duration", "1s", "--script", f"{script}.lua"]
    done = subprocess.run(
        [*command, target.url], env=os.environ | settings, cwd=FOLDER / "wrk", capture_output=True, text=True
    )
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["errors"] == 0
    assert found["requests"] > 0


@needs_wrk
def test_a_spike_of_wrk_tells_of_both_spikes_and_of_what_was_asked_all_the_time(
    target: Live, key_file: tuple[Path, str]
) -> None:
    settings = {"ARCHLAB_API_KEY": key_file[1], "LOAD_USERS": "4", "LOAD_SECONDS": "4"}
    command = ["sh", "spike.sh", target.url]
    done = subprocess.run(
        command, env=os.environ | settings, cwd=FOLDER / "wrk", capture_output=True, text=True, check=True
    )
    first, second, calm = map(json.loads, done.stdout.splitlines())
    assert first["errors"] == second["errors"] == calm["errors"] == 0
    assert min(first["requests"], second["requests"], calm["requests"]) > 0


@needs_wrk
def test_every_run_of_wrk_and_every_thread_of_it_asks_other_texts() -> None:
    """What was asked before comes from the service's cache, and a repeated measurement would be of that."""
    command = [str(WRK), "--threads", "2", "--connections", "2", "--duration", "1s", "--script", "search.lua"]
    with recording() as asked:
        for _ in range(2):
            subprocess.run([*command, asked.url], cwd=FOLDER / "wrk", capture_output=True, check=True)
    first = [tuple(own[:5]) for own in asked.bodies if len(own) >= 5]
    assert len(first) == len(set(first)) == 4


def test_the_parts_of_a_spike_ask_other_texts_though_they_begin_in_the_same_second(tmp_path: Path) -> None:
    (tmp_path / "wrk").write_text('#!/bin/sh\necho "$LOAD_SEED"\n')
    (tmp_path / "wrk").chmod(0o755)
    settings = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "LOAD_SECONDS": "1"}
    command = ["sh", "spike.sh", "http://127.0.0.1:9"]
    done = subprocess.run(command, env=os.environ | settings, cwd=FOLDER / "wrk", capture_output=True, text=True)
    assert sorted(done.stdout.split()) == ["0", "1", "2"]


@needs_wrk
def test_a_script_of_wrk_notices_errors(target: Live) -> None:
    command = [
        str(WRK),
        "--threads",
        "1",
        "--connections",
        "1",
        "--duration",
        "1s",
        "--script",
        "search.lua",
        target.url,
    ]
    clean = {name: value for name, value in os.environ.items() if name != "ARCHLAB_API_KEY"}
    done = subprocess.run(command, env=clean, cwd=FOLDER / "wrk", capture_output=True, text=True)
    assert json.loads(done.stdout.strip().splitlines()[-1])["errors"] > 0
