from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest
from tests.serve.live import wait_for

from archlab.bench.serve.servers import Server

CHILD = "import time; time.sleep(600)"
PROGRAM = f"""
import http.server, os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "{CHILD}"])
print("a line of its log", flush=True)
asked = []

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.end_headers()
        told = [str(child.pid), self.headers.get("authorization", ""), os.environ.get("ARCHLAB_API_KEYS", "none")]
        told += [os.environ["ARCHLAB_INDEX"], body.decode()]
        self.wfile.write("|".join(told).encode())

    def do_GET(self):
        asked.append(self.path)
        self.send_response(200 if len(asked) > 2 else 503)
        self.end_headers()
        self.wfile.write(" ".join(asked).encode())

    def log_message(self, *_):
        pass

http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that serves and has a child of its own."""
    (tmp_path / "served.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    return "served"


def started(module: str, log: Path) -> Server:
    settings = {"ARCHLAB_INDEX": "given"}
    return Server([module, "{port}"], path="/search", body=b"hello", log=log, key="secret", settings=settings)


def test_a_server_is_asked_with_its_key_and_knows_only_the_settings_that_it_was_given(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCHLAB_API_KEYS", "of the shell")
    with started(program, tmp_path / "log") as server:
        _, key, keys, index, body = server.ask(b"what").text.split("|")
    assert (key, keys, index, body) == ("Bearer secret", "none", "given", "what")
    assert (tmp_path / "log").read_text() == "a line of its log\n"


def test_a_server_that_answers_before_all_is_started_is_waited_for(program: str, tmp_path: Path) -> None:
    options = {"path": "/", "body": b"", "log": tmp_path / "log", "settings": {"ARCHLAB_INDEX": ""}}
    with Server([program, "{port}"], **options, ready="/readyz") as server:
        assert httpx.get(f"{server.url}/asked").text == "/readyz /readyz /readyz /asked"


def test_a_server_is_held_still_and_ended_with_its_children(program: str, tmp_path: Path) -> None:
    with started(program, tmp_path / "log") as server:
        child = psutil.Process(int(server.ask(b"").text.split("|")[0]))
        server.pause()
        wait_for(lambda: child.status() == psutil.STATUS_STOPPED)
        server.resume()
        assert server.ask(b"").status_code == 200
        server.pause()  # it can be ended all the same
    wait_for(lambda: not psutil.pid_exists(child.pid) or child.status() == psutil.STATUS_ZOMBIE)


def test_a_server_that_ends_before_it_answers_is_told_with_its_log(tmp_path: Path) -> None:
    server = Server(["nothing_of_that_name"], path="/", body=b"", log=tmp_path / "log")
    with pytest.raises(RuntimeError, match=r"log.*No module named nothing_of_that_name"), server:
        pass


_COMMAND = """
import argparse, sys, time
from pathlib import Path
from archlab import cli
from archlab.bench.serve.servers import Server

def bench(_):
    options = {"path": "/", "body": b"", "log": Path(sys.argv[1]), "settings": {"ARCHLAB_INDEX": ""}}
    with Server(["served", "{port}"], **options) as server:
        print(server._process.pid, server.ask(b"").text.partition("|")[0], flush=True)
        time.sleep(600)

cli._parse = lambda argv: argparse.Namespace(command="bench", handler=bench)
sys.exit(cli.main())
"""


def test_a_command_that_is_terminated_leaves_no_server_behind(program: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _COMMAND, str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        server, child = map(int, run.stdout.readline().split())
        run.terminate()
        assert run.wait() == 130
    assert not psutil.pid_exists(server)
    wait_for(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)


def test_a_port_that_is_found_is_free() -> None:
    from archlab.bench.serve.servers import free_port

    code = f"import socket; socket.create_server(('127.0.0.1', {free_port()}))"
    subprocess.run([sys.executable, "-c", code], check=True)
