"""A step of load by Locust, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import Any

from archlab.bench.serve.load import Load
from archlab.bench.serve.workload import Kind

USERS = Path(__file__).with_name("users.py")
_CLASSES: Mapping[Kind, str] = {
    "search": "SearchUser",
    "popular": "PopularSearchUser",
    "classify": "ClassifyUser",
    "caption": "CaptionUser",
}


def drive(url: str, key: str, load: Load) -> dict[str, Any]:
    """See `driving.drive`."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        settings = {
            "LOAD_RESULT": str(result),
            "LOAD_WARMUP": str(load.warmup),
            "LOAD_MODEL": load.model,
            "ARCHLAB_API_KEY": key,
        }
        command = [
            sys.executable,
            "-m",
            "locust",
            "--locustfile",
            str(USERS),
            _CLASSES[load.kind],
            "--headless",
            "--only-summary",
        ]
        command += ["--host", url, "--users", str(load.users), "--spawn-rate", str(load.users)]
        command += ["--run-time", f"{ceil(load.seconds + load.warmup)}s", "--loglevel", "ERROR"]
        environment = {name: value for name, value in os.environ.items() if name[:5] != "LOAD_"}
        environment |= {name: value for name, value in settings.items() if value}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8")) if result.is_file() else {}
        if not found.get("requests") and not found.get("errors"):
            raise RuntimeError(f"locust measured nothing and ended with {done.returncode}: {done.stderr[-2000:]}")
        return found
