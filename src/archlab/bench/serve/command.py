"""`archlab bench serve`: what the service bears, and how it compares with the same model behind other servers.

The service runs as it is deployed: in a process of its own, with API keys, a log record for every request and metrics.
The load generator, wrk or Locust, asks from another process on the same machine, and the machine's idle share stands
beside every figure; scenarios over time are Locust's. All servers answer the same searches on copies of the same index;
in every round each is measured once, while the others are held still.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from archlab.bench.serve import ours, with_locust
from archlab.bench.serve.capacity import find_capacity
from archlab.bench.serve.collection import build_collection
from archlab.bench.serve.contest import OURS, check_same_hits, running, side_by_side, try_variants
from archlab.bench.serve.driving import Wanted, choose_generator, drive
from archlab.bench.serve.images import image_floor
from archlab.bench.serve.load import Load
from archlab.bench.serve.ours import Model
from archlab.bench.serve.peers.variants import Variant, variants
from archlab.bench.serve.plot import plot
from archlab.bench.serve.report import markdown, print_results
from archlab.bench.serve.servers import Server
from archlab.bench.serve.workload import COLLECTION, Kind
from archlab.bench.train import conditions
from archlab.config import Section
from archlab.progress import announce, track
from archlab.rules import Count, Positive
from archlab.serve.opening import Choice, limit_threads
from archlab.train.folder import write_text

SCENARIOS: tuple[Kind, ...] = ("search", "classify", "caption")
"""What is asked; only VL-JEPA searches."""

OVER_TIME = ("steady", "mixed", "spike", "soak")
"""Scenarios: see `archlab.bench.serve.scenarios`."""

_FLOOR_ROUNDS = 30


@dataclass(frozen=True, kw_only=True)
class Plan(Section):
    """How much is measured."""

    points: Count = 50_000
    """Vectors in the index."""
    users: Count = 64
    """Of the comparison."""
    image_users: Count = 16
    """Of the scenarios with pictures."""
    most_users: Count = 256
    """Of the largest step in search of the capacity."""
    rounds: Count = 15
    """Of the comparison."""
    turn: Positive = 3.0
    """Seconds that every server is measured in a round: short, as the speed of a shared machine changes."""
    sweeps: Count = 3
    """Times that every step in search of the capacity is measured."""
    seconds: Positive = 8.0
    """That every step measures."""
    warmup: Positive = 1.0
    """Before that, in every step and turn."""
    goal_ms: Positive = 100.0
    """Under which the 95th percentile of a search must stay."""
    scenarios: Positive = 40.0
    """Seconds of each scenario but the soak."""
    soak: Positive = 180.0
    """Seconds of the soak."""


def bench_serve(
    runs: tuple[str, ...] = (),
    *,
    plan: Plan = Plan(),  # frozen
    backend: Choice = "auto",
    generator: Wanted = "auto",
    ways: Sequence[Variant] | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """Run the benchmark, print its tables, and write them, the results and a plot to the folder `out` if given.

    Args:
        runs: FOLDER or NAME=FOLDER, one of the vljepa arm and perhaps one of the token arm; those that are shipped if
            none is given.
        plan: how much is measured.
        backend: that the service computes with; see `serve.opening.open_engine`.
        generator: that asks; see `driving.choose_generator`.
        ways: in which the peers are tried; all by default.
        out: folder.

    Raises:
        UserError: no run embeds texts and images in one space, or wrk is wanted and not installed.
        ModuleNotFoundError: LitServe or Locust is not installed.
    """
    asking = choose_generator(generator)
    for package in ("litserve", "locust"):
        if find_spec(package) is None:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    limit_threads()  # as the service does: what an image costs at least is measured here
    models = ours.open_models(runs, backend)
    searched = models["vljepa"]
    index = build_collection(searched.engine, searched.name, plan.points)
    load = Load(generator=asking, users=plan.users, seconds=plan.seconds, warmup=plan.warmup)
    results: dict[str, Any] = {
        **conditions(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "plan": asdict(plan),
        "generator": asking,
        "models": {arm: model.describe() for arm, model in models.items()},
    }
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        service = stack.enter_context(ours.start(models, backend, index, work))
        results |= measure_service(service, models, plan, load)
        results["over_time"] = measure_over_time(service, plan)
        service.pause()
        for arm, model in models.items():
            results["scenarios"]["classify"][arm] |= _beside_floor(model, results["scenarios"]["classify"][arm])
        start = partial(_start_peer, run=searched.folder, index=index, work=work)
        ways = variants(searched.engine.about.backend) if ways is None else ways
        results["peers"], fastest = try_variants(ways, start, partial(_measure, load=load))
        servers = {OURS: service}
        for peer, way in fastest.items():
            servers[peer] = stack.enter_context(start(way))
            servers[peer].pause()
        results["same_hits"] = check_same_hits(servers)
        with running(service):
            before = ours.read_state(service)
        turn = replace(load, seconds=plan.turn)
        results["side_by_side"] = side_by_side(servers, partial(_measure, load=turn), plan.rounds)
        with running(service):
            results["cache"]["side_by_side"] = {"share": ours.cached_share(before, ours.read_state(service))}
    print_results(results)
    if out is not None:
        write_text(out / "results.json", json.dumps(results, indent=2) + "\n")
        write_text(out / "results.md", markdown(results))
        plot(results, out / "capacity.png")
    return results


def measure_service(service: Server, models: Mapping[str, Model], plan: Plan, load: Load) -> dict[str, Any]:
    """Capacity and scenarios of the running service; between them, what its metrics and log say of the searches.

    "cache" has the shares of texts that came from it: where all differ, in the search for the capacity ("without"), and
    where few come again ("with").
    """

    def step(users: int) -> dict[str, Any]:
        found = _measure(service, replace(load, users=users))
        rate, slowest = found.get("throughput_per_s", 0.0), found.get("p95_ms", 0.0)
        announce(f"{users} users: {rate:.0f} requests/s, p95 {slowest:.0f} ms, {found['errors']} errors")
        return found

    steps, best = find_capacity(step, goal_ms=plan.goal_ms, most=plan.most_users, sweeps=plan.sweeps)
    uncached = best or steps[0]
    state = ours.read_state(service)
    cached = _measure(service, replace(load, kind="popular", users=uncached["users"]))
    share = ours.cached_share(state, ours.read_state(service))
    wanted = [(what, arm) for what in SCENARIOS for arm in models if what != "search"]
    scenarios: dict[str, dict[str, Any]] = {what: {} for what in SCENARIOS}
    scenarios["search"]["vljepa"] = uncached
    with track("scenarios", len(wanted)) as progress:
        for what, arm in wanted:
            asked = replace(load, kind=what, users=plan.image_users, model=models[arm].name)
            scenarios[what][arm] = _measure(service, asked)
            progress.advance()
    return {
        "capacity": {"steps": steps, "best": best},
        "cache": {"without": {"share": ours.cached_share({}, state), **uncached}, "with": {"share": share, **cached}},
        "scenarios": scenarios,
        "service": state,
    }


def measure_over_time(service: Server, plan: Plan) -> dict[str, Any]:
    """What Locust measured in every scenario, and "memory_mib" of the service before and after it."""
    long = {"soak": plan.soak}
    many = {"spike": plan.most_users, "soak": plan.image_users}
    found: dict[str, Any] = {}
    with track("over time", len(OVER_TIME)) as progress:
        for name in OVER_TIME:
            users, before = many.get(name, plan.users), ours.memory(service)
            one = with_locust.play(name, service.url, service.key, users, long.get(name, plan.scenarios))
            found[name] = {**one, "users": users, "memory_mib": [before, ours.memory(service)]}
            progress.advance()
    return found


def _measure(server: Server, load: Load) -> dict[str, Any]:
    return drive(server.url, server.key, load)


def _start_peer(way: Variant, *, run: Path, index: Path, work: Path) -> Server:
    # Its copies of the index go with the folder of the benchmark.
    settings = {"TMPDIR": str(work)}
    arguments = way.arguments(str(run.resolve()), str(index), COLLECTION, ours.PATH)
    return Server(arguments, path=ours.PATH, body=ours.PROBE, log=work / f"{way.peer}.log", settings=settings)


def _beside_floor(model: Model, measured: Mapping[str, Any]) -> dict[str, Any]:
    """What an image costs by itself, and the service's rate as a share of what decoding and computing alone allow."""
    floor = image_floor(model.engine, rounds=_FLOOR_ROUNDS)
    return {"floor": floor, "share_of_floor": measured.get("throughput_per_s", 0.0) * floor["floor_ms"] / 1e3}
