"""Every way in which a peer is tried; the fastest of each is what ours is compared with."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product

from archlab.serve.engine import Backend

TORCH, SESSION, LITSERVE = "FastAPI, torch", "FastAPI, same session", "LitServe"
PEERS = (TORCH, SESSION, LITSERVE)
HTTP = "FastAPI, one answer for all"
"""No peer, as it does no work: what the HTTP layer of this machine bears in one process."""


@dataclass(frozen=True)
class Variant:
    """One way to run a peer.

    Attributes:
        peer: of `PEERS`, or `HTTP`.
        module: of this package.
        backend: that computes.
        settings: options of its command line.
    """

    peer: str
    module: str
    backend: Backend
    settings: dict[str, str] = field(default_factory=dict)

    def arguments(self, run: str, index: str, collection: str, path: str) -> list[str]:
        """Of `python -m`, with `{port}` to be filled in."""
        options = {"run": run, "backend": self.backend, "index": index, "collection": collection, "path": path}
        options |= {"port": "{port}", **self.settings}
        return [
            f"{__package__}.{self.module}",
            *(part for name, value in options.items() for part in (f"--{name}", value)),
        ]


def variants(backend: Backend) -> list[Variant]:
    """All of them.

    Args:
        backend: of ours, which the handler of the same session and LitServe get too.
    """
    styles = ("def", "async")
    found = [
        Variant(TORCH, "handler", "torch", {"style": style, "threads": threads})
        for style, threads in product(styles, ("1", "2"))
    ]
    found += [Variant(SESSION, "handler", backend, {"style": style}) for style in styles]
    found += [
        Variant(LITSERVE, "litserve", backend, {"workers": workers, "queue": queue, "batch-timeout": timeout})
        for workers, queue, timeout in product(("1", "2"), ("manager", "zmq"), ("0.001", "0.005"))
    ]
    found.append(Variant(HTTP, "handler", backend, {"style": "constant"}))
    return found
