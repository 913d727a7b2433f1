"""Real Prometheus, Alertmanager and Caddy: those of this machine, or else Debian's packages, unpacked without root."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest
from filelock import FileLock

CACHE = Path.home() / ".cache" / "archlab" / "tools"
PACKAGES = {
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "amtool": "prometheus-alertmanager",
    "caddy": "caddy",
}
_TIMEOUT = 120


@cache
def tool(name: str) -> str:
    """Path of a program; the test is skipped where there is none and none can be had."""
    if found := shutil.which(name):
        return found
    kept = CACHE / PACKAGES[name] / "usr" / "bin" / name
    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(CACHE / "lock"):
        if not kept.exists():
            _unpack(PACKAGES[name])
    return str(kept)


def _unpack(package: str) -> None:
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        pytest.skip(f"needs Debian's package {package!r} or its programs on the PATH; here is no apt-get to fetch it")
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        own = Path(folder) / "apt"
        (own / "lists" / "partial").mkdir(parents=True)
        lists = ["-o", f"Dir::State::Lists={own / 'lists'}", "-o", f"Dir::Cache={own}", "-o", "APT::Sandbox::User="]
        # With the lists of the system; images of containers come without any, and then with lists of our own.
        for command in (["download", package], [*lists, "update"], [*lists, "download", package]):
            done = subprocess.run(
                ["apt-get", "-qq", *command], cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT
            )
            if archives := list(Path(folder).glob("*.deb")):
                break
        else:
            pytest.skip(f"Debian's package {package!r} cannot be had here: {done.stderr.strip()[-200:]}")
        subprocess.run(["dpkg-deb", "-x", archives[0], Path(folder) / "files"], check=True, timeout=_TIMEOUT)
        (Path(folder) / "files").rename(CACHE / package)
