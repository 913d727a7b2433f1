"""`archlab plan`: memory, operations, time and commands of a comparison on given processors."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

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
_ENCODING: Literal["float32"] = "float32"  # whatever the arms are trained in
_SPARE = 0.1  # of a device's memory, for its own libraries and for what kernels use while they run

# What section 3.1 of the paper (arXiv 2512.10942) is made of, and the sizes that it states, row by row of our table.
_PAPERS_MODELS = ("facebook/vjepa2-vitl-fpc64-256", "meta-llama/Llama-3.2-1B", "google/embeddinggemma-300m")
_PREDICTOR = "backbone and head without the token table"
_PAPERS_SIZES = {"X-encoder, frozen": 304e6, _PREDICTOR: 490e6, "target encoder": 300e6, "in all": 1.6e9}


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

    @property
    def machines(self) -> int:
        """With up to eight processors each."""
        return -(-self.gpus // _PER_NODE)

    @property
    def per_machine(self) -> int:
        """Processors of each."""
        return -(-self.gpus // self.machines)

    def seconds(self, flops: float, precision: Any, gpus: int | None = None) -> float:
        """Time for so many operations, on all of them if not on so many."""
        return flops / ((gpus or self.gpus) * self.gpu.peak(precision) * self.utilization)


@dataclass(frozen=True)
class Job:
    """One training run of the comparison.

    Attributes:
        folder: below that of the comparison.
        steps: of the run.
        changes: of the arm's recipe, as `archlab train` takes them.
    """

    folder: str
    steps: int
    changes: list[str]


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
        """Training images; of data whose size is not in the configuration, as many as a run has samples."""
        run = self.config.run
        samples = run.optimizer.steps * self.shape.samples
        return (run.data.scenes.train_images if self.knows_images else samples) * (1 + run.encoder.views)

    @property
    def knows_images(self) -> bool:
        """Whether the configuration says how many there are."""
        return self.config.run.data.source == "scenes"

    @property
    def encoding_seconds(self) -> float:
        """Time until the features are there: the processes of a machine compute those of all images together."""
        return self.hardware.seconds(self.encoder.flops * self.images, _ENCODING, self.hardware.per_machine)

    def memory(self, arm: str, *, sharded: bool) -> dict[str, int]:
        """Bytes of each device by use."""
        return self.arms[arm].bytes_on_each(self.hardware.gpus, self.encoder.parameters, sharded=sharded)

    def fits(self, arm: str, *, sharded: bool) -> bool:
        """Whether they leave enough free."""
        needed = sum(self.memory(arm, sharded=sharded).values())
        return needed <= (1 - _SPARE) * self.hardware.gpu.memory * _GIB

    def jobs(self, arm: str) -> list[Job]:
        """All runs of an arm: the trials of learning rates, every seed, and the trained blind control."""
        config, steps = self.config, getattr(self.budget, arm).optimizer.steps
        first, short = config.seeds[0], min(config.sweep_steps, steps)
        once = [f"optimizer.steps={short}", "evaluation.checkpoints=1", f"evaluation.first_checkpoint={short}"]
        trials = [
            Job(f"sweep/{arm}-{rate:g}", short, [f"seed={first}", f"optimizer.learning_rate={rate:g}", *once])
            for rate in config.learning_rates
        ]
        best = ["optimizer.learning_rate=BEST"] if trials else []
        runs = [Job(f"{arm}-{seed}", steps, [f"seed={seed}", *best]) for seed in config.seeds]
        blind = [Job(f"{arm}-blind-{first}", steps, [f"seed={first}", *best, "blind=true"])]
        return [*trials, *runs, *(blind if config.trained_blind else [])]

    def steps(self, arm: str) -> int:
        """Training steps of all runs of an arm."""
        return sum(job.steps for job in self.jobs(arm))


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
        "encoder": asdict(plan.encoder)
        | {"images": plan.images, "images_known": plan.knows_images, "seconds": plan.encoding_seconds},
        "arms": {
            arm: asdict(needs)
            | {
                "memory": {
                    way: plan.memory(arm, sharded=sharded)
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
    encoder, disk = plan.encoder, plan.encoder.cached_bytes / 2**20
    one = "a clip" if run.data.frames else "an image"
    processors = f"{hardware.gpus} x {hardware.gpu.name} ({hardware.gpu.memory:g} GiB each)"
    lines = [
        f"Preset {name}, budget {plan.budget.name} on {processors}, {run.optimizer.precision}.",
        f"Rule of the budget: {plan.budget.rule}.",
        f"A batch: {shape.samples:,} samples of {shape.visual} visual, {shape.query} query and {shape.target} target "
        f"tokens, all texts as long as they may be; shorter ones cost less.",
        "",
        *_parameters(plan),
        "",
        table(["memory of each device", *(f"{arm}{way}" for arm in ARMS for way in _ways(plan))], _memory_rows(plan)),
        "",
        *_on_memory(plan),
        table(["operations and time", *ARMS], _time_rows(plan)),
        "",
        f"Time is at {hardware.utilization:.0%} of the peak; evaluation and loading come on top. Features are computed "
        f"once on each machine, by all its processes in {_ENCODING}, and read by both arms: {one} takes "
        f"{show.quantity(encoder.flops, 'FLOP')} and {show.mebibytes(disk)} on disk, {plan.images:,} of them "
        f"{show.quantity(encoder.flops * plan.images, 'FLOP')}, {show.seconds(plan.encoding_seconds)} and "
        f"{show.mebibytes(disk * plan.images)}. {_assumption(plan)}",
        "",
        *_commands(plan, name, out),
    ]
    return "\n".join(lines) + "\n"


def _assumption(plan: Plan) -> str:
    source = plan.config.run.data.source
    if plan.knows_images:
        return "So many are in the training split."
    return (
        f"How many there are in data.source={source} is not known here: assumed is one for each sample of a run. With "
        f"fewer of them, only the features cost less."
    )


def _ways(plan: Plan) -> dict[str, bool]:
    """Of several devices: whole copies on each (DDP), or weights, gradients and moments split among them (FSDP2)."""
    return {", replicated": False, ", sharded": True} if plan.hardware.gpus > 1 else {"": False}


def _parameters(plan: Plan) -> list[str]:
    """The table of parameters; of the paper's own models with the paper's own figures."""
    rows, run = _parameter_rows(plan), plan.config.run
    if (run.encoder.weights, run.language.weights, run.vljepa.target_weights) != _PAPERS_MODELS:
        return [table(["parameters", *ARMS], rows)]
    words = _vocabulary(run) * trunk_dimensions(run).width
    parts = plan.arms["vljepa"].parts
    predictor = parts["backbone"] - words + parts["head"]
    rows.insert(-1, [_PREDICTOR, "–", show.quantity(predictor)])
    stated = [[*row, show.quantity(_PAPERS_SIZES[row[0]]) if row[0] in _PAPERS_SIZES else "–"] for row in rows]
    total = _PAPERS_SIZES["in all"]
    return [
        table(["parameters", *ARMS, "the paper's VL-JEPA"], stated),
        "",
        f"The paper's predictor leaves out the language model's frozen token table ({show.quantity(words)}), which "
        f"we count. Its parts add up to {show.quantity(sum(_PAPERS_SIZES.values()) - total)}; what the rest of its "
        f"{show.quantity(total)} is, it does not say, nor how large its text decoder is: ours has a size of our own.",
    ]


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
    ways = [(arm, sharded) for arm in ARMS for sharded in _ways(plan).values()]
    found = [plan.memory(arm, sharded=sharded) for arm, sharded in ways]
    rows = [[use, *(show.mebibytes(one[use] / 2**20) for one in found)] for use in found[0]]
    rows.append(["in all", *(show.mebibytes(sum(one.values()) / 2**20) for one in found)])
    fits = ("yes" if plan.fits(arm, sharded=sharded) else "no" for arm, sharded in ways)
    return [*rows, [f"fits, {_SPARE:.0%} left free", *fits]]


def _on_memory(plan: Plan) -> list[str]:
    if plan.hardware.gpus == 1:
        return []
    return [
        "Replicated, gradients are held twice, the second time in what is averaged. Sharded, blocks are gathered one "
        "by one and all else for a whole step; while the first device evaluates the model whole there are no "
        "activations, and the larger of both is counted.",
        "",
    ]


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
    gpus, nodes = plan.hardware.gpus, plan.hardware.machines
    launcher = ["archlab"]
    if gpus > 1:
        launcher = ["torchrun", "--nproc-per-node", str(plan.hardware.per_machine)]
        if nodes > 1:
            launcher += ["--nnodes", str(nodes), "--rdzv-backend", "c10d", "--rdzv-endpoint", "HOST:29500"]
        launcher += ["-m", "archlab"]
    folder = out or Path("plans") / name
    train = []
    for arm in ARMS:
        sharded = gpus > 1 and not plan.fits(arm, sharded=False)
        if not plan.fits(arm, sharded=sharded):
            train.append(f"# {arm} does not fit: give more or larger processors, or lower run.optimizer.batch_size")
            continue
        shared = ["parallel=fsdp"] if sharded else []
        for job in plan.jobs(arm):
            recipe, run = str(folder / f"{arm}.yaml"), f"runs/{name}/{job.folder}"
            train.append(shlex.join([*launcher, "train", recipe, "--out", run, *job.changes, *shared]))
    if plan.config.learning_rates:
        train.insert(0, "# BEST is the rate of the trial, in sweep/, with the best scores on validation")
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
