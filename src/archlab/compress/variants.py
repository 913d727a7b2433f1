"""From a finished run to a variant of it: an ordinary run folder, whose configuration and card say how it was made."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from archlab.compare.scores import ARMS
from archlab.compress.pruning import importance, prune_magnitude, prune_structured, settle
from archlab.compress.recipe import DENSE, Variant
from archlab.config import CompressionConfig, RunConfig, flatten
from archlab.data.batch import Batch
from archlab.data.device import to_device
from archlab.documents import table
from archlab.errors import UserError
from archlab.evaluate.measure import Measurement
from archlab.evaluate.monitor import split_curve
from archlab.evaluate.readout import speaking_readout
from archlab.evaluate.whole_split import measure_answerer
from archlab.layers.pruning import parts_of
from archlab.objectives.contrastive import InfoNCE
from archlab.objectives.distillation import EmbeddingDistillation, TokenDistillation
from archlab.train.card import VARIANT, alarm_line, variant_line
from archlab.train.checkpoint import Checkpoint, fingerprint, load_checkpoint, save_checkpoint
from archlab.train.folder import claim
from archlab.train.loop import Resume, fit
from archlab.train.run import (
    build_objective,
    build_optimizer,
    inputs_of,
    learned_scale,
    load_run,
    monitor_of,
    run_order,
    scored_steps,
    training_batch,
    watch,
)
from archlab.train.schedule import learning_rate
from archlab.train.setup import Setup
from archlab.vl.answering import Answerer
from archlab.vl.arms import Arm, EmbeddingArm, SupervisedArm, build_arm

VALIDATION = Path("scores") / "torch-validation.json"
"""Where a variant keeps what its card says, item by item."""


@dataclass(frozen=True)
class Parent:
    """The run that variants are made of.

    Attributes:
        checkpoint: of the run; digest: of its weights.
        setup: its data, encoder and tokenizer.
    """

    checkpoint: Checkpoint[RunConfig]
    digest: str
    setup: Setup

    @property
    def config(self) -> RunConfig:
        """Of the run."""
        return self.checkpoint.config

    def arm(self) -> Any:
        """The trained arm, loaded anew."""
        return load_run(self.checkpoint.folder, self.setup).arm


def open_parent(run: Path) -> Checkpoint[RunConfig]:
    """Read a run that variants can be made of.

    Raises:
        UserError: it cannot be read, or is of another arm, or is a variant itself.
    """
    checkpoint = load_checkpoint(run, RunConfig)
    config = checkpoint.config
    if config.arm not in ARMS:
        raise UserError(f"run {run}: the {config.arm} arm is not compressed; give a run of the token or the vljepa arm")
    if config.compression.method != "none":
        raise UserError(f"run {run}: is a {config.compression.method} variant already; give the run it was made of")
    return checkpoint


def variant_config(parent: Parent, variant: Variant) -> RunConfig:
    """The configuration of a variant.

    Raises:
        UserError: this run's trunk has nothing that the method could take out.
    """
    config, optimizer = parent.config, parent.config.optimizer
    made = CompressionConfig(method=variant.method, parent=parent.digest, recipe=variant.relevant())
    if variant.steps:
        optimizer = replace(optimizer, steps=variant.steps, learning_rate=variant.learning_rate)
    if variant.method == "structured":
        if config.arm == "vljepa" and config.vljepa.predictor.kind == "none":
            raise UserError("method='structured': this run's predictor does not use the trunk; leave the variant out")
        attention, layer = parts_of(parent.arm().backbone.trunk.blocks[0])
        kept = [math.ceil(variant.kept * count) for count in (attention.key_value_heads, layer.down_proj.in_features)]
        made = replace(made, heads=kept[0], feed_forward=kept[1])
    if variant.method == "distillation":
        if config.language.weights:
            raise UserError("method='distillation': the trunk of a language model has no smaller size; leave it out")
        config = replace(config, trunk=variant.trunk)
    return replace(config, optimizer=optimizer, compression=made)


def make_variant(parent: Parent, name: str, variant: Variant, folder: Path) -> None:
    """Write the variant of a run into `folder`, or finish what was interrupted; nothing is done where it is finished.

    Raises:
        UserError: `folder` holds something else, or the method does not fit the run.
        KeyboardInterrupt: interrupted; the same call resumes.
    """
    config, setup = variant_config(parent, variant), parent.setup
    claim(folder, config)
    if (folder / "metrics.json").exists():
        return
    arm, objective = _MAKERS[variant.method](parent, config, variant)
    arm = arm.to(setup.device)
    metrics: dict[str, Any] = {"parent": parent.digest, "steps": variant.steps, "seconds": 0.0, **inputs_of(setup)}
    if "scale" in parent.checkpoint.metrics:
        metrics["scale"] = parent.checkpoint.metrics["scale"]
    if variant.steps:
        name_of_run = f"{config.arm}, {name}"
        metrics |= _trained(arm, objective, config, setup, folder / "state.pt", parent.digest, name_of_run)
    settle(arm)
    metrics |= _weights(arm)
    measured = measure_answerer(_asked(arm.eval(), config, setup, metrics.get("scale")), setup, "validation")
    measured.save(folder / VALIDATION)
    before = _parent_validation(parent, folder.parent).means()
    card = _card(config, parent, metrics, measured.means(), before)
    setup.encoder.save(folder)
    save_checkpoint(folder, arm, config, setup.tokenizer, metrics, card)
    (folder / "state.pt").unlink(missing_ok=True)


def copy_parent(parent: Parent, folder: Path) -> None:
    """The run itself beside its variants, with a card that says that it is none.

    Raises:
        UserError: another run lies there.
    """
    run = parent.checkpoint.folder
    if (folder / "card.md").exists():
        if load_checkpoint(folder, RunConfig).digest() != parent.digest:
            raise UserError(f"output folder {folder}: holds another run than {run}; name another with --out")
    else:
        card = parent.checkpoint.card()
        if VARIANT not in card:
            card = f"{card.rstrip()}\n\n{variant_line(parent.config)}\n"
        parent.setup.encoder.save(folder)
        parent.checkpoint.copy(folder, card)


def inherit(student: nn.Module, teacher: nn.Module) -> None:
    """Begin with the teacher's weights wherever the student has the same tensor.

    Of the trunk's blocks it takes evenly spaced ones, the last among them (DistilBERT, arXiv 1910.01108, section 2).
    """
    prefix = "backbone.trunk.blocks."
    theirs, ours = teacher.state_dict(), student.state_dict()
    depths = [len(arm.backbone.trunk.blocks) for arm in (student, teacher)]  # type: ignore[union-attr, arg-type]
    for name, tensor in ours.items():
        source = name
        if name.startswith(prefix):
            block, _, rest = name.removeprefix(prefix).partition(".")
            source = f"{prefix}{(int(block) + 1) * depths[1] // depths[0] - 1}.{rest}"
        if source in theirs and theirs[source].shape == tensor.shape:
            tensor.copy_(theirs[source])


_Made = tuple[Any, nn.Module]


def _rounded(parent: Parent, config: RunConfig, variant: Variant) -> _Made:
    return parent.arm().to(torch.bfloat16), build_objective(config)


def _sparse(parent: Parent, config: RunConfig, variant: Variant) -> _Made:
    arm = parent.arm()
    prune_magnitude(arm, variant.sparsity)
    return arm, _objective(parent, config)


def _narrowed(parent: Parent, config: RunConfig, variant: Variant) -> _Made:
    arm, made = parent.arm(), config.compression
    objective = _objective(parent, config).to(parent.setup.device)
    scores = importance(arm, objective, _examples(parent, variant.examples))
    prune_structured(arm, scores, made.heads, made.feed_forward)
    smaller = _built(config, parent.setup)
    smaller.load_state_dict(arm.state_dict())  # strict: the configuration says what is left
    return smaller, objective


def _student(parent: Parent, config: RunConfig, variant: Variant) -> _Made:
    teacher, student = parent.arm().requires_grad_(False), _built(config, parent.setup)
    inherit(student, teacher)
    if not isinstance(student, EmbeddingArm):
        return student, TokenDistillation(teacher, variant.temperature, variant.teacher)
    # The space and how it is spoken are the teacher's, bit for bit.
    student.target_encoder.requires_grad_(False)
    student.decoder.requires_grad_(False)
    contrastive = InfoNCE(config.vljepa.loss)
    return student, EmbeddingDistillation(teacher, _warm(contrastive, parent), variant.teacher)


_MAKERS: dict[str, Callable[[Parent, RunConfig, Variant], _Made]] = {
    "bfloat16": _rounded,
    "magnitude": _sparse,
    "structured": _narrowed,
    "distillation": _student,
}


def _built(config: RunConfig, setup: Setup) -> Arm:
    return build_arm(config, setup.encoder.width, setup.tokenizer.vocab_size, 0, setup.tokenizer).to(setup.device)


def _objective(parent: Parent, config: RunConfig) -> nn.Module:
    """What the run was trained by."""
    return _warm(build_objective(config), parent)


def _warm(objective: Any, parent: Parent) -> Any:
    """Go on with the temperature that the run has learned."""
    for module in objective.modules():
        if isinstance(module, InfoNCE) and "scale" in parent.checkpoint.metrics:
            nn.init.constant_(module.log_scale, math.log(parent.checkpoint.metrics["scale"]))
    return objective


def _examples(parent: Parent, count: int) -> Iterator[Batch]:
    """The first batches of training, with about so many examples."""
    setup, config = parent.setup, parent.config
    batches = math.ceil(count / config.optimizer.batch_size)
    config = replace(config, optimizer=replace(config.optimizer, steps=batches))
    order = run_order(config, setup)
    for step in range(batches):
        yield to_device(training_batch(config, setup, order, step), setup.device)


def _trained(
    arm: Any, objective: nn.Module, config: RunConfig, setup: Setup, state: Path, parent: str, description: str
) -> dict[str, Any]:
    """Train as a run is trained; what the metrics keep of it."""
    order = run_order(config, setup)
    objective = objective.to(setup.device)
    monitor = monitor_of(arm, setup, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        history = fit(
            arm,
            objective,
            lambda step: to_device(training_batch(config, setup, order, step), setup.device),
            build_optimizer(config, arm, objective),
            steps=config.optimizer.steps,
            schedule=lambda step: learning_rate(step, config.optimizer),
            gradient_clip=config.optimizer.gradient_clip,
            precision=config.optimizer.precision,
            evaluate=lambda step: monitor(step, watch(arm, setup, config)) if monitor else {},
            evaluate_at=scored_steps(config) if monitor else (),
            resume=Resume(state, fingerprint(config, *setup.digests(), parent), config.evaluation.resume_every),
            description=description,
        )
    found = {"seconds": history.seconds, "order_digest": order.digest(), **learned_scale(objective)}
    if monitor:
        found["monitor"] = split_curve([asdict(point) for point in history.curve], monitor.verdict, monitor.steps)[1]
    return found


def _weights(arm: nn.Module) -> dict[str, int]:
    """How many there are, and how many of them are zero."""
    every = list(arm.parameters())
    return {
        "parameters": sum(weight.numel() for weight in every),
        "zeros": sum(int((weight == 0).sum()) for weight in every),
    }


def _asked(arm: Any, config: RunConfig, setup: Setup, scale: float | None) -> Answerer:
    assert not isinstance(arm, SupervisedArm)
    readout = speaking_readout(arm, setup.tokenizer, config.tokenizer.max_target)
    return Answerer(config, setup.encoder, setup.tokenizer, readout, scale)


def _parent_validation(parent: Parent, runs: Path) -> Measurement:
    """The parent's own scores on validation, which lie beside those of its variants; measured where they do not."""

    def measure() -> Measurement:
        asked = _asked(parent.arm(), parent.config, parent.setup, parent.checkpoint.metrics.get("scale"))
        return measure_answerer(asked, parent.setup, "validation")

    return Measurement.cached(runs / f"{parent.config.arm}-{DENSE}" / VALIDATION, measure)


def _card(
    config: RunConfig, parent: Parent, metrics: dict[str, Any], after: dict[str, float], before: dict[str, float]
) -> str:
    recipe = [[key, str(value)] for key, value in flatten(config.compression.recipe).items()]
    zeros = f", {metrics['zeros']:,} of them zero" if metrics["zeros"] else ""
    parts = [
        f"# {config.arm} arm, seed {config.seed}: {config.compression.method}",
        f"{variant_line(config)} Made by `archlab compress` of the run whose weights have the SHA-256\n"
        f"`{parent.digest}`.",
        f"{metrics['parameters']:,} parameters{zeros}; trained on `{config.data.source}` for {metrics['steps']} steps "
        f"after the parent, on\nfeatures of the frozen encoder `{config.encoder.weights}` "
        f"({parent.setup.encoder.digest[:12]}).",
        *filter(None, [alarm_line(metrics)]),
        table(["recipe", "value"], [["method", config.compression.method], *recipe]),
        table(
            ["validation metric", "parent", "this variant"],
            [[metric, f"{before[metric]:.4f}", f"{value:.4f}"] for metric, value in after.items()],
        ),
    ]
    return "\n\n".join(parts) + "\n"
