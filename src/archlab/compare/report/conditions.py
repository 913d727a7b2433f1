"""What the comparison costs and under which conditions it holds: inference, size, budget, data, provenance, limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from archlab.compare import formatting as show
from archlab.compare import plots, scores
from archlab.compare.findings import MODES, cost_of
from archlab.compare.report.blocks import EACH_ARM, Section, Table, plain, rate, section
from archlab.compare.scores import ARMS, NAMES, Results

_CALLS_OF_A_P99 = 100
"""With fewer calls the 99th percentile lies between the two slowest."""
_SKIPPED_OPEN, _SKIPPED_ROWS = 20, 500
"""Longer lists of inputs that were left out are folded, and end."""


def inference(results: Results) -> Section:
    """Latency, throughput, operations, memory and cost of answers."""
    rows, costs = [], []
    calls: set[int] = set()
    encoder = (results.get("x_encoder") or {}).get("inference") or {}
    subjects = [(NAMES[arm], results["arms"][arm].get("inference") or {}) for arm in ARMS]
    for name, modes in [*subjects, ("shared X-encoder", encoder)]:
        for mode, batches in modes.items():
            for batch in sorted(batches, key=int):
                row = batches[batch]
                latency = [show.milliseconds(row.get(key)) for key in ("p50_ms", "p95_ms", "p99_ms")]
                if row.get("calls", _CALLS_OF_A_P99) < _CALLS_OF_A_P99:
                    latency[2] += " *"
                    calls.add(row["calls"])
                rows.append(
                    [
                        f"{name}: {MODES.get(mode, mode)}",
                        batch,
                        *latency,
                        show.significant(row["throughput_per_s"]),
                        show.quantity(row.get("flops_per_sample"), "FLOP"),
                        show.mebibytes(row.get("memory_mib")),
                    ]
                )
    price = (results["arms"]["token"].get("cost") or {}).get("price_per_hour")
    for arm in ARMS:
        for mode in results["arms"][arm].get("inference") or {}:
            if cost := cost_of(results, arm, mode):
                money = rate(cost["price"]) if price else "no price given"
                costs.append([f"{NAMES[arm]}: {MODES.get(mode, mode)}", show.seconds(cost["seconds"]), money])
    tables = []
    if rows:
        columns = [
            "what", "batch", "p50", "p95", "p99", "samples per second", "operations per sample", "peak memory"
        ]  # fmt: skip
        note = (
            "From the decoded image to the answer, frozen encoder included. All rows were timed in turns within one "
            "run: compare them as ratios, not with another machine. Operations are those of matrix products. Peak "
            f"memory is that of a process that answers such batches; GPU memory: {_gpu_memory(results)}."
        )
        if calls:
            many = " or ".join(map(show.count, sorted(calls)))
            note += f" * From {many} calls: no 99th percentile yet, but a value between the two slowest calls."
        tables.append(Table("Latency, throughput and memory", columns, rows, note))
    rates = [
        [label, *(rate(results["arms"][arm].get(key)) for arm in ARMS)]
        for key, label in (
            ("tokens_per_second", "generated tokens per second"),
            ("embeddings_per_second", "embeddings per second"),
            ("decode_steps", "decoding steps a caption"),
        )
        if any(show.is_number(results["arms"][arm].get(key)) for arm in ARMS)
    ]
    if rates:
        tables.append(Table("Rates at the largest batch", ["rate", *EACH_ARM], rates))
    if costs:
        given = f"at {rate(price)} an hour, in the currency of the price" if price else "no machine price was given"
        note = f"At the best batch size, on a machine that is always busy; {given}."
        tables.append(Table("Cost of 1,000 requests", ["what", "machine time", "price"], costs, note))
    panels = plots.accuracy_against_latency(results)
    return section(
        "inference", "Inference", "What does an answer cost, and how good is it for that?",
        figures=[("Test score against latency; further left is faster, higher is better.", panels)] if panels else [],
        tables=tables,
        reason=scores.untested(results, "inference", "inference speed", default="no latency was measured"),
    )  # fmt: skip


def size(results: Results) -> Section:
    """Parameters, operations and memory."""
    parts = {
        "backbone": "trunk and token embedding", "head": "head", "target_encoder": "target encoder",
        "decoder": "text decoder", "encoder_frozen": "frozen X-encoder",
    }  # fmt: skip
    of_variants = {"predictor": "cross-attention to the query", "writer": "decoder with cross-attention"}
    parts |= {
        part: label
        for part, label in of_variants.items()
        if any(part in (results["arms"][arm].get("parameters") or {}).get("parts", {}) for arm in ARMS)
    }
    rows = [["trainable parameters", *_of_each(results, show.count, "parameters", "trainable")]]
    rows.append(["all parameters", *_of_each(results, show.count, "parameters", "total")])
    rows += [
        [f"of these: {label}", *_of_each(results, show.count, "parameters", "parts", k)] for k, label in parts.items()
    ]
    flops = partial(show.quantity, unit="FLOP")
    training: list[tuple[str, str, Callable[[Any], str]]] = [
        ("training steps", "steps", show.count),
        ("training samples", "samples", show.count),
        ("operations of training", "flops", flops),
        ("operations of a step", "flops_per_step", flops),
        ("time of training, by seed", "seconds", _durations),
        ("tokens per second", "tokens_per_second", show.count),
        ("peak memory of training", "peak_memory_mib", show.mebibytes),
        ("of this: libraries, before training", "start_memory_mib", show.mebibytes),
        ("GPU memory", "gpu_memory", show.mebibytes),
        ("learning rate", "learning_rate", plain),
    ]
    rows += [[label, *_of_each(results, form, "training", key)] for label, key, form in training]
    parts_of = dict.fromkeys(
        part for arm in ARMS for part in (results["arms"][arm].get("training") or {}).get("flops_parts") or {}
    )
    rows += [
        [
            f"operations: {parts.get(part, part.replace('_', ' '))}",
            *_of_each(results, lambda own: flops(own) if own else "none", "training", "flops_parts", part),
        ]
        for part in parts_of
    ]
    note = "Operations are the additions and multiplications of matrix products, forward and backward."
    return section(
        "size", "Size", "What does each arm consist of, with target encoder and text decoder counted?",
        tables=[Table("Parameters, operations and memory", ["quantity", *EACH_ARM], rows, note)],
    )  # fmt: skip


def budget(results: Results) -> Section:
    """What was equal, what may differ, what differs."""
    own = results.get("budget") or {}
    rows = [[key, *(plain(value) for value in pair)] for key, pair in (own.get("differs") or {}).items()]
    tables = [Table("What differs between the arms", ["key of the configuration", *EACH_ARM], rows)] if rows else []
    trials = {arm: results["arms"][arm].get("sweep") or [] for arm in ARMS}
    rates = list(dict.fromkeys(trial["learning_rate"] for arm in ARMS for trial in trials[arm]))
    sweep = [
        [plain(rate)]
        + [
            next((show.significant(one["score"]) for one in trials[arm] if one["learning_rate"] == rate), "not tried")
            for arm in ARMS
        ]
        for rate in rates
    ]
    if sweep:
        note = "Equal trials for each arm on validation; mean of the headline scores between 0 and 1."
        tables.append(Table("Learning rates tried", ["learning rate", *EACH_ARM], sweep, note))
    may = ", ".join(own.get("may_differ") or ()) or "nothing"
    return section(
        "budget", "Budget", f"Budget “{own.get('name', 'unknown')}”: {own.get('rule', 'no rule was recorded')}.",
        tables=tables,
        lines=[f"May differ under this budget: {may}. The run refuses arms that differ in anything else."],
    )  # fmt: skip


def data(results: Results) -> Section:
    """Splits, sizes, skips."""
    own = results.get("data") or {}
    splits = own.get("splits") or {}
    rows = [[name.replace("_", " "), show.count(one.get("images")), show.count(one.get("examples"))]
            for name, one in splits.items()]  # fmt: skip
    tables = [Table("Splits", ["split", "images", "examples"], rows)] if rows else []
    kinds = list(dict.fromkeys(kind for one in splits.values() for kind in one.get("kinds") or {}))
    if kinds:
        tables.append(
            Table(
                "Examples by kind",
                ["kind", *(name.replace("_", " ") for name in splits)],
                [
                    [
                        kind.replace("_", " "),
                        *(show.count((one.get("kinds") or {}).get(kind, 0)) for one in splits.values()),
                    ]
                    for kind in kinds
                ],
            )
        )
    lines = [str(note) for note in own.get("notes") or ()]
    if own.get("paraphrases"):
        lines.append(f"Surface forms per meaning: {own['paraphrases']}.")
    if skipped := list(own.get("skipped") or ()):
        tables.append(_left_out(skipped))
    else:
        lines.append("Inputs left out: none.")
    return section("data", "Data", f"Data: {own.get('name', 'unknown')}.", tables=tables, lines=lines)


def provenance(results: Results) -> Section:
    """How to get these numbers again."""
    own, machine = results.get("provenance") or {}, results.get("machine") or {}
    encoder = own.get("encoder") or {}
    rows = [
        ["command", str(results.get("command", "unknown"))],
        ["archlab", str(results.get("archlab", "unknown"))],
        ["commit", str(own.get("git", "unknown"))],
        ["finished", str(results.get("created", "unknown"))],
        ["preset", str(results.get("preset", "unknown"))],
        ["seeds", ", ".join(map(str, results.get("seeds") or ())) or "none"],
        ["processor", f"{machine.get('cpu', 'unknown')}, {machine.get('cores', 'unknown')} cores"],
        ["memory", f"{machine.get('memory_gib', 'unknown')} GiB"],
        ["graphics processor", str(machine.get("gpu") or "none")],
        ["software", f"Python {machine.get('python', 'unknown')}, PyTorch {machine.get('torch', 'unknown')}"],
        *([f"digest of the data, {split}", digest] for split, digest in (own.get("data_digest") or {}).items()),
        ["digest of the features", str(own.get("features_digest", "unknown"))],
        *([f"digest of the order, seed {seed}", digest] for seed, digest in (own.get("order_digest") or {}).items()),
        ["frozen encoder", str(encoder.get("name", "unknown"))],
        ["code of the encoder", str(encoder.get("implementation", "archlab"))],
        ["digest of the encoder", str(encoder.get("digest", "unknown"))],
    ]
    rows += [[f"encoder probe, {name}", value] for name, value in _flat(encoder.get("probe") or {})]
    tables = [
        Table("Run", ["what", "value"], rows),
        Table("Configuration", ["key", "value"], _flat(results.get("config") or {}), folded=True),
    ]
    lead = (
        "The command below, at this commit, reruns the comparison; digests tell whether data, features and order agree."
    )
    return section("provenance", "Provenance", lead, tables=tables)


def limits(results: Results) -> Section:
    """What this does not show."""
    seeds = len(results.get("seeds") or ())
    lines = [
        f"Seeds: {seeds}. "
        + (
            f"With {scores.ONE_SEED}; the intervals cover the choice of test images and nothing else."
            if scores.one_seed(results)
            else "A handful of seeds says little about the spread between training runs; intervals are narrow in that."
        ),
        "Both arms are small and train for a short time on little data. Which arm is better here need not be better at "
        "the size of the paper.",
        "Many comparisons are made at 95 %, without correction: of those without any difference about one in twenty "
        "looks decided.",
        "Latency, memory and time hold for this machine, this software and this batch of requests. Compare ratios.",
        "VL-JEPA speaks through a decoder of its own, trained on text alone: captions measure arm and decoder "
        "together. The ceiling of the decoder stands beside them.",
    ]
    lines += [f"Untested: {name}: {reason}." for name, reason in (results.get("untested") or {}).items()]
    return section("limits", "What this does not show", "Read the numbers with these limits.", lines=lines)


def _left_out(skipped: Sequence[str]) -> Table:
    """What could not be used, one row each: which input it was, and what is wrong with it."""
    rows = [[where, problem] for where, _, problem in (line.partition(": ") for line in skipped[:_SKIPPED_ROWS])]
    note = "They could not be used and are counted in no split: data.pairs.on_error=skip asked to go on without them."
    if len(skipped) > _SKIPPED_ROWS:
        note += f" The first {_SKIPPED_ROWS} are listed here, all of them in results.json."
    caption = f"Inputs left out: {show.count(len(skipped))}"
    return Table(caption, ["input", "what is wrong with it"], rows, note, folded=len(skipped) > _SKIPPED_OPEN)


def _gpu_memory(results: Results) -> str:
    """The most that either arm took of a graphics processor to answer."""
    rows = [
        row
        for arm in ARMS
        for batches in (results["arms"][arm].get("inference") or {}).values()
        for row in batches.values()
    ]
    found = [row["gpu_memory"] for row in rows if show.is_number(row.get("gpu_memory"))]
    return show.mebibytes(max(found, default=None))


def _of_each(results: Results, form: Callable[[Any], str], *keys: str) -> list[str]:
    cells = []
    for arm in ARMS:
        value: Any = results["arms"][arm]
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        cells.append(form(value))
    return cells


def _durations(values: Any) -> str:
    found = values if isinstance(values, Sequence) and not isinstance(values, str) else []
    return ", ".join(show.seconds(value) for value in found) or show.NOT_MEASURED


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[list[str]]:
    rows = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        rows += _flat(value, f"{name}.") if isinstance(value, Mapping) else [[name, plain(value)]]
    return rows
