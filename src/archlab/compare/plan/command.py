"""`archlab plan`: memory, operations, time and commands of a comparison on given processors."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from archlab.compare import formatting as show
from archlab.compare.budgets import Budget, apply_budget
from archlab.compare.dimensions import trunk_dimensions
from archlab.compare.flops import BatchShape, Sizes
from archlab.compare.plan.encoder import EncoderNeeds, encoder_needs
from archlab.compare.plan.footprint import Footprint, footprint
from archlab.compare.plan.hardware import GPUS, Gpu, find_gpu
from archlab.compare.scores import ARMS
from archlab.config import CompareConfig, RunConfig, to_yaml
from archlab.data.tokenizer import TextTokenizer
from archlab.documents import table
from archlab.errors import UserError
from archlab.train.folder import write_text

_GIB = 2**30
_PER_NODE = 8
_SPARE = 0.1  # of a device's memory, for its own libraries and for what kernels use while they run


@dataclass(frozen=True)
class Hardware:
    """What the runs are planned on.

    Attributes:
        gpu: of each of `gpus` processors.
        utilization: share of the peak that training reaches.
    """

    gpu: Gpu
    gpus: int
    utilization: float

    def seconds(self, flops: float, precision: Any) -> float:
        """Time for so many operations."""
        return flops / (self.gpus * self.gpu.peak(precision) * self.utilization)


@dataclass(frozen=True)
class Plan:
    """What a comparison needs.

    Attributes:
        config: of the comparison.
        budget: the run of each arm.
        encoder: the frozen encoder.
        shape: of a batch, all texts as long as they may be.
        arms: what each arm needs.
        hardware: what they run on.
    """

    config: CompareConfig
    budget: Budget
    encoder: EncoderNeeds
    shape: BatchShape
    arms: dict[str, Footprint]
    hardware: Hardware

    @property
    def images(self) -> int:
        """Training images, at most: of data whose size is not in the configuration, one for every sample."""
        data = self.config.run.data
        count = data.scenes.train_images if data.source == "scenes" else math.inf
        return int(min(count, self.config.run.optimizer.steps * self.shape.samples)) * (
            1 + self.config.run.encoder.views
        )

    def steps(self, arm: str) -> int:
        """Training steps of all runs of an arm: every seed, the trained blind control and the sweep."""
        run: RunConfig = getattr(self.budget, arm)
        runs = len(self.config.seeds) + self.config.trained_blind
        return runs * run.optimizer.steps + len(self.config.learning_rates) * self.config.sweep_steps


def plan_command(
    config: CompareConfig,
    name: str,
    *,
    gpus: int = 1,
    gpu: str = "h100",
    utilization: float = 0.4,
    hardware: Path | None = None,
    out: Path | None = None,
) -> None:
    """Print a plan; with `out` also write it there, with the recipes that its commands train.

    Raises:
        UserError: an option breaks its rule, the processor is unknown, or a pretrained part cannot be read.
    """
    if gpus < 1:
        raise UserError(f"--gpus {gpus}: must be at least 1")
    if not 0 < utilization <= 1:
        raise UserError(f"--utilization {utilization}: must be more than 0 and at most 1")
    plan = make_plan(config, Hardware(find_gpu(gpu, hardware or GPUS), gpus, utilization))
    text = render(plan, name, out)
    if out is not None:
        for arm in ARMS:
            write_text(out / f"{arm}.yaml", "recipe: arm\n" + to_yaml(getattr(plan.budget, arm)))
        write_text(out / "plan.json", json.dumps(to_json(plan), indent=1) + "\n")
        write_text(out / "plan.md", f"# Plan of {name}\n\n{text}")
    print(text, end="")


def make_plan(config: CompareConfig, hardware: Hardware) -> Plan:
    """Work out what a comparison needs; nothing is trained and no data are read.

    Raises:
        UserError: a pretrained part cannot be read, or the budget's rule cannot be kept.
    """
    run = config.run
    encoder = encoder_needs(run.encoder, run.data.frames)
    sizes = Sizes(encoder.width, _vocabulary(run), 1)
    shape = BatchShape(run.optimizer.batch_size, encoder.tokens, run.tokenizer.max_query, run.tokenizer.max_target)
    budget = apply_budget(config.budget, run, sizes, [shape] * run.optimizer.steps)
    arms: dict[str, Footprint] = {arm: footprint(getattr(budget, arm), sizes, shape, hardware.gpus) for arm in ARMS}
    return Plan(config, budget, encoder, shape, arms, hardware)


def to_json(plan: Plan) -> dict[str, Any]:
    """The plan's numbers: bytes, operations and seconds."""
    hardware = plan.hardware
    return {
        "hardware": asdict(hardware),
        "batch": asdict(plan.shape),
        "encoder": asdict(plan.encoder) | {"images": plan.images},
        "arms": {
            arm: asdict(needs)
            | {
                "memory": {
                    way: needs.bytes_on_each(hardware.gpus, sharded=sharded)
                    for way, sharded in (("replicated", False), ("sharded", True))
                },
                "steps": plan.steps(arm),
                "seconds": hardware.seconds(needs.flops * plan.steps(arm), plan.config.run.optimizer.precision),
            }
            for arm, needs in plan.arms.items()
        },
    }


def render(plan: Plan, name: str, out: Path | None) -> str:
    """The plan as Markdown."""
    shape, hardware, run = plan.shape, plan.hardware, plan.config.run
    encoding, disk = plan.encoder.flops * plan.images, plan.encoder.cached_bytes * plan.images / 2**20
    processors = f"{hardware.gpus} x {hardware.gpu.name} ({hardware.gpu.memory:g} GiB each)"
    lines = [
        f"Preset {name}, budget {plan.budget.name} on {processors}, {run.optimizer.precision}.",
        f"Rule of the budget: {plan.budget.rule}.",
        f"A batch: {shape.samples:,} samples of {shape.visual} visual, {shape.query} query and {shape.target} target "
        f"tokens, all texts as long as they may be; shorter ones cost less.",
        "",
        table(["parameters", *ARMS], _parameter_rows(plan)),
        "",
        table(["memory of each device", *(f"{arm}{way}" for arm in ARMS for way in _ways(plan))], _memory_rows(plan)),
        "",
        table(["operations and time", *ARMS], _time_rows(plan)),
        "",
        f"Time is at {hardware.utilization:.0%} of the peak; evaluation and loading come on top. Features are computed "
        f"once and read by both arms: {show.quantity(encoding, 'FLOP')}, "
        f"{show.seconds(hardware.seconds(encoding, run.optimizer.precision))}, {show.mebibytes(disk)} on disk for at "
        f"most {plan.images:,} images.",
        "",
        *_commands(plan, name, out),
    ]
    return "\n".join(lines) + "\n"


def _ways(plan: Plan) -> dict[str, bool]:
    """Of several devices: whole copies on each (DDP), or weights, gradients and moments split among them (FSDP2)."""
    return {", replicated": False, ", sharded": True} if plan.hardware.gpus > 1 else {"": False}


def _parameter_rows(plan: Plan) -> list[list[str]]:
    rows = [["X-encoder, frozen", *[show.quantity(plan.encoder.parameters)] * 2]]
    for part in dict.fromkeys(part for needs in plan.arms.values() for part in needs.parts):
        counts = [needs.parts.get(part, 0) for needs in plan.arms.values()]
        if any(counts):
            rows.append([part.replace("_", " "), *(show.quantity(count) if count else "–" for count in counts)])
    frozen = [needs.parameters - needs.trainable for needs in plan.arms.values()]
    if any(frozen):  # token table, target encoder
        rows.append(["of these frozen", *map(show.quantity, frozen)])
    rows.append(["trained", *(show.quantity(needs.trainable) for needs in plan.arms.values())])
    totals = (needs.parameters + plan.encoder.parameters for needs in plan.arms.values())
    return [*rows, ["in all", *map(show.quantity, totals)]]


def _memory_rows(plan: Plan) -> list[list[str]]:
    gpus, memory = plan.hardware.gpus, plan.hardware.gpu.memory * _GIB
    found = [plan.arms[arm].bytes_on_each(gpus, sharded=sharded) for arm in ARMS for sharded in _ways(plan).values()]
    rows = [[use, *(show.mebibytes(one[use] / 2**20) for one in found)] for use in found[0]]
    totals = [sum(one.values()) for one in found]
    rows.append(["in all", *(show.mebibytes(total / 2**20) for total in totals)])
    fits = ("yes" if total <= (1 - _SPARE) * memory else "no" for total in totals)
    return [*rows, [f"fits, {_SPARE:.0%} left free", *fits]]


def _time_rows(plan: Plan) -> list[list[str]]:
    precision = plan.config.run.optimizer.precision

    def row(name: str, flops: list[int]) -> list[str]:
        times = (show.seconds(plan.hardware.seconds(one, precision)) for one in flops)
        return [name, *(f"{show.quantity(one, 'FLOP')}, {time}" for one, time in zip(flops, times, strict=True))]

    per_step = [needs.flops for needs in plan.arms.values()]
    steps = [getattr(plan.budget, arm).optimizer.steps for arm in ARMS]
    return [
        row("a step", per_step),
        row("a run", [one * count for one, count in zip(per_step, steps, strict=True)]),
        row("all runs", [one * plan.steps(arm) for arm, one in zip(ARMS, per_step, strict=True)]),
    ]


def _commands(plan: Plan, name: str, out: Path | None) -> list[str]:
    """How the arms are trained on those processors, one line of shell each."""
    gpus = plan.hardware.gpus
    nodes = -(-gpus // _PER_NODE)
    launcher = ["archlab"]
    if gpus > 1:
        launcher = ["torchrun", "--nproc-per-node", str(-(-gpus // nodes))]
        if nodes > 1:
            launcher += ["--nnodes", str(nodes), "--rdzv-backend", "c10d", "--rdzv-endpoint", "HOST:29500"]
        launcher += ["-m", "archlab"]
    folder = out or Path("plans") / name
    train = [
        shlex.join(
            [*launcher, "train", str(folder / f"{arm}.yaml"), "--out", f"runs/{name}/{arm}-{seed}", f"seed={seed}"]
        )
        for seed in plan.config.seeds
        for arm in ARMS
    ]
    where = "Commands" if nodes == 1 else f"Commands, each on every one of {nodes} machines, HOST being one of them"
    missing = "" if out else f" (`archlab plan --out {folder}` writes the recipes)"
    return [f"{where}{missing}:", "", "```", *train, "```"]


def _vocabulary(run: RunConfig) -> int:
    """Size of the tokenizer; that of the language model's table where its files are not there."""
    if run.language.weights:
        return trunk_dimensions(run).vocab_size
    if run.tokenizer.pretrained:
        return TextTokenizer.load(run.tokenizer.pretrained).vocab_size
    return run.tokenizer.vocab_size
