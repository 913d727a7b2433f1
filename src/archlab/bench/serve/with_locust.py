"""Load by Locust, in a process of its own: a step, or a scenario."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

from archlab.bench.serve.load import Load
from archlab.bench.serve.workload import Kind

USERS, SCENARIOS = Path(__file__).with_name("users.py"), Path(__file__).with_name("scenarios")
_CLASSES: Mapping[Kind, str] = {
    "search": "SearchUser",
    "popular": "PopularSearchUser",
    "classify": "ClassifyUser",
    "caption": "CaptionUser",
}


def drive(url: str, key: str, load: Load) -> dict[str, Any]:
    """See `driving.drive`."""
    options = [_CLASSES[load.kind], "--users", str(load.users), "--spawn-rate", str(load.users)]
    options += ["--run-time", f"{ceil(load.seconds + load.warmup)}s"]
    settings = {"LOAD_WARMUP": str(load.warmup), "LOAD_MODEL": load.model}
    return _run(USERS, [*options, "--host", url], {name: value for name, value in settings.items() if value}, key)


def play(name: str, url: str, key: str, users: int, seconds: float) -> dict[str, Any]:
    """A scenario of `archlab.bench.serve.scenarios`, measured from its first moment; see `record.Record.summary`.

    Raises:
        RuntimeError: nothing was measured.
    """
    settings = {"LOAD_USERS": str(users), "LOAD_SECONDS": str(seconds), "LOAD_WARMUP": "0"}
    return _run(SCENARIOS / f"{name}.py", ["--host", url], settings, key)


def _run(locustfile: Path, options: Sequence[str], settings: Mapping[str, str], key: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-m", "locust", "--locustfile", str(locustfile), *options]
        command += ["--headless", "--only-summary", "--loglevel", "ERROR"]
        environment = {name: value for name, value in os.environ.items() if name[:5] != "LOAD_"}
        environment |= {"LOAD_RESULT": str(result), **settings, **({"ARCHLAB_API_KEY": key} if key else {})}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8")) if result.is_file() else {}
        if not found.get("requests") and not found.get("errors"):
            raise RuntimeError(f"locust measured nothing and ended with {done.returncode}: {done.stderr[-2000:]}")
        return found
