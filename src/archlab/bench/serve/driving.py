"""One step of load: Locust in a process of its own against a server, and what it measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

USERS = Path(__file__).with_name("users.py")


@dataclass(frozen=True, kw_only=True)
class Load:
    """What asks.

    Attributes:
        user: class of `users`.
        users: so many at once, each asking again as soon as it is answered.
        seconds: that are measured, after `warmup` that are not; together in whole seconds, rounded up.
        model: that is asked, where it is not the default.
    """

    user: str = "SearchUser"
    users: int = 64
    seconds: float = 8.0
    warmup: float = 2.0
    model: str = ""


def drive(url: str, key: str, load: Load) -> dict[str, Any]:
    """Ask a server and say what was measured; see `record.Record.summary`.

    Raises:
        RuntimeError: Locust measured nothing.
    """
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
            load.user,
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
