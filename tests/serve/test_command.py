"""Promises of `archlab serve` and `archlab keys`."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from tests.serve.live import base64_of, picture, problem, wait_for

from archlab.cli import main
from archlab.config import CompareConfig, to_yaml
from archlab.errors import UserError
from archlab.index.exact import ExactIndex
from archlab.index.places import Spread
from archlab.serve import app as module
from archlab.serve import collections, protocol
from archlab.serve.auth import KeyFile
from archlab.serve.command import configured
from archlab.serve.service import Service, named_folders
from archlab.serve.settings import WEIGHTS, Settings

GUIDE = (Path(__file__).parents[2] / "06-production" / "README.md").read_text(encoding="utf-8")
PARAGRAPH = GUIDE.partition("- `uvicorn archlab.serve.app:app`")[2].partition("\n- ")[0]
TOLD = dict(re.findall(r"`--([a-z-]+) ?([\w.:]*)`", PARAGRAPH))
"""Options of uvicorn's command, and their values."""


def error(capsys: pytest.CaptureFixture[str]) -> str:
    text = capsys.readouterr().err
    assert text.startswith("archlab: error: ")
    assert text.count("\n") == 1
    return text


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.org"])
def test_without_keys_it_listens_on_this_machine_alone(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--host", host]) == 2
    text = error(capsys)
    assert "only this machine is served" in text
    assert "archlab keys create" in text


def test_a_port_that_is_taken_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", "--port", str(taken.getsockname()[1])]) == 2
    assert "give others" in error(capsys)
    assert main(["serve", "--port", "70000"]) == 2
    assert "--port 70000" in error(capsys)


def test_what_does_not_exist_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["serve", str(tmp_path / "none")]) == 2
    assert "is no folder" in error(capsys)
    (tmp_path / "empty").mkdir()
    assert main(["serve", str(tmp_path / "empty")]) == 2
    assert "empty: config.yaml is missing; give the folder of a finished run" in error(capsys)
    assert main(["serve", "--keys", str(tmp_path / "none.json")]) == 2
    assert "archlab keys create" in error(capsys)
    assert main(["serve", "--price-per-hour", "-1"]) == 2
    assert "ARCHLAB_PRICE_PER_HOUR=-1.0" in error(capsys)


def test_models_have_names_that_differ(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "token").mkdir(parents=True)
    one, two = tmp_path / "one" / "token", tmp_path / "two" / "token"
    assert named_folders([str(one), f"other={two}"]) == {"token": one, "other": two}
    with pytest.raises(UserError, match="NAME=FOLDER"):
        named_folders([str(one), str(two)])


def test_a_backend_that_cannot_serve_a_folder_is_one_line(
    capsys: pytest.CaptureFixture[str], text_run: Callable[[str], Path], damaged: str
) -> None:
    assert main(["serve", str(text_run("characters")), "--backend", "onnx"]) == 2
    assert "runs of characters are served in torch" in error(capsys)
    assert main(["serve", damaged, "--backend", "torch"]) == 2
    assert "holds no PyTorch weights" in error(capsys)


def test_a_comparison_is_served_by_its_first_run_of_each_arm(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(to_yaml(CompareConfig(seeds=[3, 4])))
    runs = {arm: tmp_path / "runs" / f"{arm}-3" for arm in ("token", "vljepa")}
    assert named_folders([f"mine={tmp_path}"]) == {f"mine-{arm}": run for arm, run in runs.items()}
    with pytest.raises(UserError, match="'mine-token' is the name of another one"):
        named_folders([f"mine-token={tmp_path.parent}", f"mine={tmp_path}"])


def test_keys_are_created_listed_and_revoked(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    assert (
        main(["keys", "create", "app", "--file", str(file), "--scope", "read", "--scope", "write", "--rate", "5"]) == 0
    )
    key = capsys.readouterr().out.strip()
    found = KeyFile(file).find(key)
    assert found is not None
    assert (found.scopes, found.requests_per_second) == (("read", "write"), 5.0)
    assert main(["keys", "list", "--file", str(file)]) == 0
    listed = capsys.readouterr().out
    assert listed.startswith("app: read (")
    assert key.rpartition("_")[2] not in listed
    assert main(["keys", "revoke", "app", "--file", str(file)]) == 0
    assert KeyFile(file).find(key) is None


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        (["create"], "needs the name"),
        (["create", "a b"], "letters, digits"),
        (["revoke", "nobody"], "is not in"),
        (["create", "a", "--rate", "0"], "must be positive"),
    ],
)
def test_what_is_wrong_with_keys_is_one_line(
    arguments: list[str], rule: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "keys.json").write_text('{"keys": []}')
    assert main(["keys", *arguments, "--file", str(tmp_path / "keys.json")]) == 2
    assert rule in error(capsys)


def test_settings_come_from_the_environment_and_the_command_line_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHLAB_MODELS", "a=runs/a, runs/b")
    monkeypatch.setenv("ARCHLAB_MAX_REQUESTS", "7")
    monkeypatch.setenv("ARCHLAB_MODEL_ROOTS", "/srv/models")
    settings = Settings.read(max_requests=9)
    assert settings.models == ("a=runs/a", "runs/b")
    assert settings.max_requests == 9
    assert settings.model_roots == (Path("/srv/models"),)
    assert Settings.read().max_requests == 7
    assert Settings.read(model_roots=(WEIGHTS,)).model_roots == (WEIGHTS,)


def test_the_application_of_uvicorn_reads_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, damaged: str
) -> None:
    monkeypatch.setenv("ARCHLAB_MODELS", str(tmp_path / "none"))
    with pytest.raises(SystemExit) as ended:
        _ = module.app
    assert ended.value.code == 2
    assert "is no folder" in error(capsys)
    monkeypatch.setenv("ARCHLAB_MODELS", damaged)
    assert list(module.__getattr__("app").state.service.folders) == ["damaged"]
    del module.__dict__["app"]
    with pytest.raises(AttributeError):
        _ = module.nothing


@pytest.mark.parametrize(("name", "value"), [("MAX_REQUESTS", "0"), ("LOG_FORMAT", "xml"), ("DRAIN_SECONDS", "soon")])
def test_a_setting_that_breaks_its_rule_is_one_line(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"ARCHLAB_{name}", value)
    with pytest.raises(UserError, match=f"ARCHLAB_{name}='{value}': must be"):
        Settings.read()


def test_collections_on_a_server_are_spread_as_the_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Spread]] = []

    def opened(place: str, *, spread: Spread, loop: object) -> ExactIndex:
        asked.append((place, spread))
        return ExactIndex()

    monkeypatch.setattr(collections, "open_index", opened)
    for name, value in {"": "http://qdrant:6333", "_SHARDS": "6", "_REPLICAS": "3", "_CONSISTENCY": "1"}.items():
        monkeypatch.setenv(f"ARCHLAB_INDEX{name}", value)
    asyncio.run(Service(Settings.read()).collections.warm())
    assert asked == [("http://qdrant:6333", Spread(shards=6, replicas=3, consistency=1))]
    monkeypatch.setenv("ARCHLAB_INDEX_CONSISTENCY", "4")
    with pytest.raises(UserError, match="consistency=4: must be at most replicas=3"):
        Service(Settings.read())


def test_the_guide_tells_uvicorns_command_what_ours_decides() -> None:
    app = module.create_app(Settings.model_construct())
    config = configured(app, Settings.model_construct())
    assert TOLD["ws-max-size"] == str(config.ws_max_size)
    assert TOLD["ws-per-message-deflate"] == str(config.ws_per_message_deflate).lower()
    assert TOLD["timeout-graceful-shutdown"] == str(config.timeout_graceful_shutdown)
    assert not config.server_header
    assert "no-server-header" in TOLD
    assert TOLD["http"] == f"{protocol.__name__}:Bounded"
    flags = {flag for option in uvicorn.main.params for flag in (*option.opts, *option.secondary_opts)}
    assert {f"--{name}" for name in ("ws-max-size", "timeout-graceful-shutdown", "http", "no-server-header")} <= flags


@pytest.fixture
def by_uvicorn(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """uvicorn's command as the guide says, over the shipped models, and a client of it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    options = [part for name, value in TOLD.items() for part in (f"--{name}", value) if part]
    # What is exported is tried elsewhere; it takes a minute.
    settings = {"ARCHLAB_BACKEND": "torch", "ARCHLAB_DRAIN_SECONDS": "0", "OMP_NUM_THREADS": "1"}
    with (tmp_path / "log").open("w") as log, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "archlab.serve.app:app", "--port", port, *options],
            env=os.environ | settings,
            cwd=tmp_path,
            stdout=log,
            stderr=subprocess.STDOUT,
        )

        def ready() -> bool:
            assert process.poll() is None, (tmp_path / "log").read_text()
            try:
                return client.get("/readyz").status_code == 200
            except httpx.TransportError:
                return False

        try:
            wait_for(ready)
            yield process, client
        finally:
            process.kill()
            process.wait()


def test_uvicorns_command_serves_the_shipped_models(
    by_uvicorn: tuple[subprocess.Popen[bytes], httpx.Client], tmp_path: Path
) -> None:
    process, client = by_uvicorn
    documentation = client.get("/docs")
    assert documentation.status_code == 200
    assert "swagger" in documentation.text
    assert "server" not in documentation.headers
    answer = client.post("/v1/answer", json={"image": base64_of(picture()), "question": "what colour is it"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["answer"]
    problem(client.get("/version", headers={"x-long": "a" * 2**15}), "head-too-large")
    process.send_signal(signal.SIGTERM)
    assert process.wait() == -signal.SIGTERM  # it raises the signal once more when it is done, as the guide says
    assert "Application shutdown complete" in (tmp_path / "log").read_text()
