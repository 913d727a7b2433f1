"""A step of load by wrk: it sends what Locust's users send, for a small part of their processor time.

Differs from Locust: wrk always corrects its percentiles for coordinated omission. A request that was answered late
stands there for those too that its user could not send meanwhile, so slow spells weigh more. Answers that are errors
are among the percentiles.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections import Counter
from math import ceil
from pathlib import Path
from random import randrange
from resource import RUSAGE_CHILDREN, getrusage
from typing import Any

from archlab.bench.serve import workload
from archlab.bench.serve.load import Load
from archlab.bench.serve.record import cpu_seconds, idle_share

_SCRIPTS = Path(__file__).with_name("wrk")
_PATIENCE = "30s"  # until an answer is an error; wrk's own 2 s would hide how slow a server is


def drive(url: str, key: str, load: Load) -> dict[str, Any]:
    """See `driving.drive`."""
    bodies = workload.bodies(load.kind, load.model or None)
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "bodies"
        lines.write_bytes(b"\n".join(bodies))

        def ask(seconds: float) -> dict[str, Any]:
            command = ["wrk", "--threads", "1", "--connections", str(load.users), "--duration", f"{ceil(seconds)}s"]
            command += ["--timeout", _PATIENCE, "--script", "replay.lua", url + workload.path(load.kind)]
            # Each run begins elsewhere: the texts of the run before may still be in the server's cache.
            return _run([*command, "--", str(lines), str(randrange(len(bodies)))], key)

        warm = ask(load.warmup)  # wrk measures all that it asks, so a run of its own warms up
        cpu, own = cpu_seconds(), _children_seconds()
        found = ask(load.seconds)
        idle, own = idle_share(cpu, cpu_seconds()), _children_seconds() - own
    errors = Counter(warm["error_kinds"]) + Counter(found["error_kinds"])  # leaves out those that never happened
    if not found["requests"] and not errors:
        raise RuntimeError(f"wrk measured nothing: {found}")
    return {
        "users": load.users,
        **{name: value for name, value in found.items() if found["requests"] or not name.endswith("_ms")},
        "errors": errors.total(),
        "error_kinds": dict(errors),
        "idle_share": idle,
        "generator_cores": own / found["seconds"],
    }


def _run(command: list[str], key: str) -> dict[str, Any]:
    """What `wrk/report.lua` says of a run."""
    environment = os.environ | {"ARCHLAB_API_KEY": key}
    done = subprocess.run(command, cwd=_SCRIPTS, env=environment, capture_output=True, text=True)
    last = "".join(done.stdout.splitlines()[-1:])
    if done.returncode or not last.startswith("{"):  # without its script it measures something else
        raise RuntimeError(f"wrk measured nothing and ended with {done.returncode}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(last)
    return found


def _children_seconds() -> float:
    """Processor time of the processes that this one has started and seen end."""
    used = getrusage(RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
