"""Which load generator asks, and one step of load by it."""

from __future__ import annotations

import shutil
from typing import Any, Literal

from archlab.bench.serve import with_locust, with_wrk
from archlab.bench.serve.load import Generator, Load
from archlab.errors import UserError

Wanted = Literal["auto", "wrk", "locust"]


def choose_generator(wanted: Wanted) -> Generator:
    """The generator that is wanted; "auto" is wrk where it is installed, as it leaves more of the cores to the server.

    Raises:
        UserError: wrk is wanted and not installed.
    """
    if wanted == "locust":
        return "locust"
    if shutil.which("wrk") is not None:
        return "wrk"
    if wanted == "wrk":
        raise UserError("--generator wrk: wrk is not installed; apt-get install wrk, or use --generator locust")
    return "locust"


def drive(url: str, key: str, load: Load) -> dict[str, Any]:
    """Ask a server and say what was measured; see `record.Record.summary`.

    Args:
        url: of the server's root.
        key: API key; "" for a server without keys.

    Raises:
        RuntimeError: nothing was measured.
    """
    ask = with_wrk.drive if load.generator == "wrk" else with_locust.drive
    return ask(url, key, load)
