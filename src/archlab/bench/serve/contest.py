"""Servers side by side: each peer in its fastest way, all in turns within every round, compared round by round."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import numpy as np

from archlab.bench.serve.capacity import typical
from archlab.bench.serve.peers.variants import HTTP, Variant
from archlab.bench.serve.servers import Server
from archlab.bench.serve.workload import captions, search_body
from archlab.bench.train import median_ratio
from archlab.progress import track

OURS = "archlab"
SAME = 0.95
"""Share of its hits that a peer must have in common with ours: sums in another order change a few near ties."""

_PROBES = 20
_SEED = 2  # of the searches that are compared


class Paused(Protocol):
    """A server that can be held still."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...


Held = TypeVar("Held", bound=Paused)


@contextmanager
def running(server: Held) -> Iterator[Held]:
    """Let a server that is held still run inside the block."""
    server.resume()
    try:
        yield server
    finally:
        server.pause()


def try_variants(
    variants: Sequence[Variant], start: Callable[[Variant], Server], measure: Callable[[Server], Mapping[str, Any]]
) -> tuple[dict[str, Any], dict[str, Variant]]:
    """Measure every way to run each peer, one after the other.

    Returns:
        peer -> its ways with what was measured, in the order they were tried; and peer -> the one that answered most
        without an error.

    Raises:
        RuntimeError: a peer had errors in every way.
    """
    tried: dict[str, list[dict[str, Any]]] = {}
    fastest: dict[str, tuple[float, Variant]] = {}
    with track("ways to run the peers", len(variants)) as progress:
        for variant in variants:
            with start(variant) as server:
                step = dict(measure(server))
            tried.setdefault(variant.peer, []).append({"settings": variant.settings, **step})
            if not step["errors"] and step["throughput_per_s"] > fastest.get(variant.peer, (0.0, variant))[0]:
                fastest[variant.peer] = step["throughput_per_s"], variant
            progress.advance()
    if missing := [peer for peer in tried if peer not in fastest]:
        raise RuntimeError(f"{', '.join(missing)}: errors in every way it was tried: {tried[missing[0]]}")
    return tried, {peer: variant for peer, (_, variant) in fastest.items()}


def check_same_hits(servers: Mapping[str, Server]) -> dict[str, float]:
    """Share of its hits that each peer has in common with ours; `HTTP` looks for none.

    Raises:
        RuntimeError: a peer refuses a search, or finds something else, so that it does other work.
    """
    bodies = [search_body(text) for text in captions(_PROBES, _SEED)]
    found: dict[str, list[set[str]]] = {name: [] for name in servers if name != HTTP}
    for name in found:
        with running(servers[name]) as server:
            for body in bodies:
                answer = server.ask(body)
                if answer.status_code != 200:
                    raise RuntimeError(f"{name}: a search was answered {answer.status_code} {answer.text[:200]}")
                found[name].append({hit["id"] for hit in answer.json()["hits"]})
    shares = {
        name: float(np.mean([len(own & best) / len(best) for own, best in zip(hits, found[OURS], strict=True)]))
        for name, hits in found.items()
        if name != OURS
    }
    if different := {name: share for name, share in shares.items() if share < SAME}:
        raise RuntimeError(f"the servers do not do equal work: share of the hits in common with ours {different}")
    return shares


def side_by_side(
    servers: Mapping[str, Held], measure: Callable[[Held], Mapping[str, Any]], rounds: int
) -> dict[str, dict[str, Any]]:
    """Measure all servers in turns; every round begins with another one.

    Args:
        servers: by name, all held still; `OURS` is among them.

    Returns:
        name -> its `compared` rounds.

    Raises:
        RuntimeError: a server answered nothing in a round.
    """
    names = list(servers)
    steps: dict[str, list[Mapping[str, Any]]] = {name: [] for name in names}
    with track("side by side", rounds * len(names)) as progress:
        for turn in range(rounds):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                with running(servers[name]) as server:
                    steps[name].append(measure(server))
                if not steps[name][-1]["requests"]:
                    raise RuntimeError(f"{name}: no request was answered: {steps[name][-1]}")
                progress.advance()
    return {name: compared(own, steps[OURS]) for name, own in steps.items()}


def compared(steps: Sequence[Mapping[str, Any]], ours: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians over the rounds, and how many times the throughput and the 95th percentile of a server ours has.

    Returns:
        see `capacity.typical`; and "times_throughput" and "times_p95": value, low and high of ours over this server's
        in the same round.
    """
    found = typical(steps)
    for name, key in (("times_throughput", "throughput_per_s"), ("times_p95", "p95_ms")):
        mine, theirs = (np.array([step[key] for step in one]) for one in (ours, steps))
        found[name] = dict(zip(("value", "low", "high"), median_ratio(mine, theirs), strict=True))
    return found
