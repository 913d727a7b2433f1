"""How fast each arm answers, read from results that were measured: of `bench serve`, or of a comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from archlab.compare.scores import ARMS
from archlab.cost.prices import Device
from archlab.errors import UserError

Layer = Literal["service", "model"]


@dataclass(frozen=True)
class Measurement:
    """One throughput.

    Attributes:
        what: is asked, as "search" or "classify".
        arm: that answers.
        throughput: requests a second of one machine.
        layer: "service": over HTTP, load generator and all included; "model": the model alone at its best batch size.
        device: that it was measured on.
        cores: of that machine.
        source: file.
    """

    what: str
    arm: str
    throughput: float
    layer: Layer
    device: Device
    cores: int
    source: str


def read_measurements(path: Path) -> list[Measurement]:
    """All throughputs of a file.

    Raises:
        UserError: it cannot be read, or holds none.
    """
    try:
        results: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"results {path}: {error.strerror}; measure them with 'archlab bench serve --out {path.parent}'"
        ) from None
    except ValueError:
        raise UserError(f"results {path}: is no JSON; give a results.json of 'bench serve' or of 'compare'") from None
    try:
        machine = results["machine"]
        device: Device = "gpu" if machine["gpu"] else "cpu"
        about = machine["cores"], str(path)
        if "scenarios" in results:
            on: dict[str, Device] = {  # a session computes on the processor, whatever else the machine has
                arm: device if one["backend"] == "torch" else "cpu" for arm, one in results["models"].items()
            }
            found = [
                Measurement(what, arm, step["throughput_per_s"], "service", on[arm], *about)
                for what, arms in results["scenarios"].items()
                for arm, step in arms.items()
                if not step["errors"] and step["requests"]
            ]
        else:
            found = [
                Measurement(
                    mode, arm, max(row["throughput_per_s"] for row in batches.values()), "model", device, *about
                )
                for arm in ARMS
                for mode, batches in _modes(results, arm).items()
            ]
    except (KeyError, TypeError, AttributeError, ValueError):
        found = []
    if not found:
        raise UserError(
            f"results {path}: hold no throughput; give a results.json of 'archlab bench serve' or of 'archlab compare'"
        )
    return found


def _modes(results: Mapping[str, Any], arm: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = results["arms"].get(arm, {}).get("inference", {})
    return found
