"""`archlab cost`: what answers cost, per 1,000 and per month, for both arms, and where a GPU pays."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from archlab.compare import formatting as show
from archlab.compare.scores import NAMES
from archlab.cost.arithmetic import Capacity, break_even, throughput_to_pay
from archlab.cost.measurements import Measurement, read_measurements
from archlab.cost.prices import HOURS_PER_MONTH, Machine, PriceList, read_prices
from archlab.documents import Tables, escape, print_tables, tables_markdown
from archlab.errors import UserError
from archlab.train.folder import write_text

_LAYERS = {"service": "over HTTP", "model": "the model alone"}


def cost_command(
    files: Sequence[Path],
    *,
    prices: Path,
    traffic: Sequence[float],
    utilization: float,
    cpu: str | None,
    gpu: str | None,
    out: Path | None,
) -> dict[str, Any]:
    """Print the tables, and write them and their numbers to the folder `out` if given.

    Args:
        files: results of `bench serve` or of a comparison; of the same request the last file counts.
        prices: price list.
        traffic: requests a second.
        utilization: share of its measured throughput that a replica is planned for.
        cpu, gpu: machines of the price list; the first of each kind if not given.
        out: folder.

    Raises:
        UserError: a file cannot be read, or a number breaks its rule.
    """
    if not 0 < utilization <= 1:
        raise UserError(f"--utilization {utilization}: must be above 0 and at most 1")
    if bad := [one for one in traffic if not one > 0]:
        raise UserError(f"--traffic {bad[0]:g}: must be positive, in requests a second")
    listed = read_prices(prices)
    measured = [one for path in files for one in read_measurements(path)]
    report = costs(measured, listed, traffic=traffic, utilization=utilization, cpu=cpu, gpu=gpu)
    print_tables(tables(report), notes(report))
    if out is not None:
        write_text(out / "cost.json", json.dumps(report, indent=2) + "\n")
        write_text(out / "cost.md", markdown(report))
    return report


def costs(
    measured: Sequence[Measurement],
    prices: PriceList,
    *,
    traffic: Sequence[float],
    utilization: float,
    cpu: str | None = None,
    gpu: str | None = None,
) -> dict[str, Any]:
    """Everything that the tables say, as plain values.

    Returns:
        "requests": one entry for each thing that is asked of an arm: throughput, cost per 1,000, months at every
        traffic, and under "gpu" what one must answer to pay, and from which traffic it does where it was measured.

    Raises:
        UserError: the price list lacks a machine.
    """
    machines = {"cpu": prices.first("cpu", cpu), "gpu": prices.first("gpu", gpu)}
    latest = {(one.what, one.arm, one.layer, one.device): one for one in measured}
    requests = []
    for (what, arm, layer, device), one in latest.items():
        if machines[device] is None:
            raise UserError(f"price list: has no {device}, which {one.source} was measured on; add one")
        name, machine = machines[device]  # type: ignore[misc]
        capacity = Capacity(one.throughput, machine.price_per_hour, utilization)
        entry: dict[str, Any] = {
            **asdict(one),
            "machine": name,
            "per_1000_full": Capacity(one.throughput, machine.price_per_hour, 1.0).per_1000,
            "per_1000": capacity.per_1000,
            "months": [
                {
                    "traffic": rate,
                    "replicas": capacity.replicas(rate),
                    "cost": capacity.monthly(rate),
                    "per_1000": capacity.per_1000_at(rate),
                }
                for rate in traffic
            ],
        }
        if device == "cpu" and machines["gpu"] is not None:
            entry["gpu"] = _beside_gpu(capacity, *machines["gpu"], latest.get((what, arm, layer, "gpu")))
        requests.append(entry)
    requests.sort(key=lambda one: (one["layer"] != "service", one["what"], one["arm"] != "vljepa", one["device"]))
    return {
        "currency": prices.currency,
        "utilization": utilization,
        "hours_per_month": HOURS_PER_MONTH,
        "machines": {name: asdict(machine) for name, machine in filter(None, machines.values())},
        "requests": requests,
    }


def _beside_gpu(cpu: Capacity, name: str, machine: Machine, measured: Measurement | None) -> dict[str, Any]:
    needed = throughput_to_pay(cpu, machine.price_per_hour)
    found: dict[str, Any] = {"machine": name, "throughput_to_pay": needed, "throughput": None, "break_even": None}
    if measured is not None:
        other = Capacity(measured.throughput, machine.price_per_hour, cpu.utilization)
        found |= {"throughput": measured.throughput, "break_even": break_even(cpu, other)}
    return found


def tables(report: dict[str, Any]) -> Tables:
    """What is shown and written."""
    currency, share = report["currency"], f"{report['utilization']:.0%}"
    names = ["request", "model", "measured", "machine"]
    heads = [[one["what"], NAMES[one["arm"]], _LAYERS[one["layer"]], one["machine"]] for one in report["requests"]]
    rates = [month["traffic"] for month in report["requests"][0]["months"]] if heads else []
    found = {
        f"Cost of 1,000 requests, {currency}": (
            [*names, "requests/s", "busy all the time", f"planned for {share}"],
            [
                [*head, show.significant(one["throughput"]), _money(one["per_1000_full"]), _money(one["per_1000"])]
                for head, one in zip(heads, report["requests"], strict=True)
            ],
        ),
        f"Cost of a month, {currency}; machines in brackets": (
            [*names, *(f"{rate:,g} requests/s" for rate in rates)],
            [
                [*head, *(f"{_money(month['cost'])} ({month['replicas']:,})" for month in one["months"])]
                for head, one in zip(heads, report["requests"], strict=True)
            ],
        ),
    }
    beside = [(head, one["gpu"]) for head, one in zip(heads, report["requests"], strict=True) if "gpu" in one]
    if beside:
        found["CPU or GPU"] = (
            [*names, "GPU", "must answer to pay", "answers", "pays from"],
            [
                [*head, gpu["machine"], f"{show.significant(gpu['throughput_to_pay'])} requests/s", *_verdict(gpu)]
                for head, gpu in beside
            ],
        )
    return found


def notes(report: dict[str, Any]) -> list[str]:
    """Where the figures come from."""
    machines = [
        f"{name}: {one['cores']} cores, {one['price_per_hour']:g} {report['currency']} an hour, {one['date']} "
        f"({one['source']})"
        for name, one in report["machines"].items()
    ]
    measured = dict.fromkeys(
        f"{one['source']}: measured on {one['cores']} cores ({one['device']})" for one in report["requests"]
    )
    return [
        *machines,
        *measured,
        f"A month has {report['hours_per_month']:g} hours. Machines are taken to be as fast as the one measured on. "
        f"They are planned for {report['utilization']:.0%} of what they answer at most. Pays from: traffic from "
        f"which one GPU costs less than the CPU machines that it replaces.",
    ]


def markdown(report: dict[str, Any]) -> str:
    """Everything, generated: do not edit."""
    parts = ["# What answers cost", "Generated by `archlab cost`. Prices are examples until you edit the price list."]
    parts += tables_markdown(tables(report))
    parts.append("\n".join(f"- {escape(line)}" for line in notes(report)))
    return "\n\n".join(parts) + "\n"


def _verdict(gpu: dict[str, Any]) -> list[str]:
    if gpu["throughput"] is None:
        return [show.NOT_MEASURED, show.NOT_MEASURED]
    answers = f"{show.significant(gpu['throughput'])} requests/s"
    if gpu["break_even"] is None:
        return [answers, "never: it costs more per request"]
    return [answers, f"{show.significant(gpu['break_even'])} requests/s"]


def _money(value: float) -> str:
    return f"{value:,.2f}" if value >= 1 else show.significant(value)
