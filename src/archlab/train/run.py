"""One training run of one arm: build, train with scored checkpoints, save. Resumes where it was interrupted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from archlab.config import RunConfig
from archlab.data.batch import Batch
from archlab.data.device import to_device
from archlab.data.order import Order
from archlab.errors import UserError
from archlab.evaluate.collapse import verdict_of
from archlab.evaluate.controls import Condition, derangement
from archlab.evaluate.measure import (
    Items,
    Measurement,
    fit_retrieval_map,
    measure_captions,
    measure_retrieval,
    measure_vqa,
)
from archlab.evaluate.monitor import Monitor, split_curve, watch_arm, what_keeps_apart
from archlab.evaluate.readout import Readout, SupervisedReadout, TokenReadout, speaking_readout
from archlab.evaluate.trunk_probes import measure_probes
from archlab.objectives.classification import Classification
from archlab.objectives.contrastive import InfoNCE
from archlab.objectives.embedding_prediction import SpokenPrediction, build_embedding_objective
from archlab.objectives.next_token import NextToken
from archlab.train.card import alarm_line, variant_line
from archlab.train.checkpoint import fingerprint, load_checkpoint, save_checkpoint
from archlab.train.folder import claim
from archlab.train.loop import Resume, fit
from archlab.train.optim import adamw
from archlab.train.processes import count, once, own_part
from archlab.train.schedule import learning_rate
from archlab.train.setup import Setup
from archlab.train.start import begin
from archlab.train.together import train_together
from archlab.vl.arms import Arm, EmbeddingArm, SupervisedArm, build_arm

_FINISHED = "metrics.json"
_ALL = slice(None)


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        config: what it was trained with.
        folder: its checkpoint.
        arm: the trained model, in evaluation mode.
        metrics: training cost and the scored checkpoints ("curve").
    """

    config: RunConfig
    folder: Path
    arm: Arm
    metrics: dict[str, Any]


def train_run(config: RunConfig, setup: Setup, folder: Path, description: str) -> Run:
    """Train one arm, or finish what was interrupted, or open what is finished.

    Args:
        setup: what the runs of a comparison share.
        folder: checkpoint and training state.
        description: shown beside the progress bar.

    Raises:
        UserError: `folder` belongs to another configuration or to other data.
        KeyboardInterrupt: the run was interrupted; the same call resumes it.
    """
    if config.optimizer.batch_size < count():
        raise UserError(
            f"optimizer.batch_size={config.optimizer.batch_size}: must be at least the number of processes, {count()}"
        )
    if config.compression.method != "none":
        raise UserError(f"compression.method={config.compression.method!r}: is made by 'archlab compress', not trained")
    once(partial(claim, folder, config))
    if (folder / _FINISHED).exists():
        trained = load_checkpoint(folder, RunConfig).metrics
        if any(trained.get(key) != digest for key, digest in inputs_of(setup).items()):
            raise UserError(
                f"output folder {folder}: its run was trained on other data or features than there are now; "
                f"name another with --out, or remove it"
            )
        return load_run(folder, setup)
    order = run_order(config, setup)
    classes = len(setup.answers)
    arm = build_arm(config, setup.encoder.width, setup.tokenizer.vocab_size, classes, setup.tokenizer)
    started_from = begin(arm, config, setup)
    arm = arm.to(setup.device)
    objective = build_objective(config).to(setup.device)
    part = own_part(config.optimizer.batch_size)
    state = folder / "state.pt"
    monitor = monitor_of(arm, setup, config)

    def evaluate(step: int) -> dict[str, float]:
        scores = score_validation(arm, setup, config, validation_file(folder, step))
        return scores | monitor(step, watch(arm, setup, config)) if monitor else scores

    with torch.random.fork_rng(devices=[]):  # some objectives draw: directions of SIGReg, patches to hide
        torch.manual_seed(config.seed)
        team = train_together(arm, objective, config.parallel)
        history = fit(
            team.model,
            team.objective,
            lambda step: to_device(training_batch(config, setup, order, step, part), setup.device),
            build_optimizer(config, team.model, objective),
            steps=config.optimizer.steps,
            schedule=lambda step: learning_rate(step, config.optimizer),
            gradient_clip=config.optimizer.gradient_clip,
            precision=config.optimizer.precision,
            evaluate=evaluate,
            evaluate_at=scored_steps(config),
            resume=Resume(state, fingerprint(config, *setup.digests(), *started_from), config.evaluation.resume_every),
            together=team,
            description=description,
        )
        team.collect()
    metrics: dict[str, Any] = {
        "steps": config.optimizer.steps,
        "samples": config.optimizer.steps * config.optimizer.batch_size,
        "seconds": history.seconds,
        "order_digest": order.digest(),
        **inputs_of(setup),
        **learned_scale(objective),
        "curve": [asdict(point) for point in history.curve],
    }
    if monitor:
        metrics["curve"], metrics["monitor"] = split_curve(metrics["curve"], monitor.verdict, monitor.steps)
    card = _card(config, setup, metrics)
    once(lambda: setup.encoder.save(folder))
    once(lambda: save_checkpoint(folder, arm, config, setup.tokenizer, metrics, card))
    once(lambda: state.unlink(missing_ok=True))  # the checkpoint is whole: nothing is left to resume
    return Run(config, folder, arm.eval(), metrics)


def load_run(folder: Path, setup: Setup) -> Run:
    """Open a finished run, against the data and the encoder of `setup`."""
    checkpoint = load_checkpoint(folder, RunConfig)
    arm = build_arm(
        checkpoint.config, setup.encoder.width, setup.tokenizer.vocab_size, len(setup.answers), setup.tokenizer
    )
    checkpoint.load_into(arm)
    return Run(checkpoint.config, folder, arm.to(setup.device).eval(), checkpoint.metrics)


def build_objective(config: RunConfig) -> nn.Module:
    """The objective of the run's arm."""
    if config.arm == "token":
        return NextToken()
    if config.arm == "supervised":
        return Classification()
    if config.arm == "hybrid":
        return SpokenPrediction()
    return build_embedding_objective(config.vljepa)


def learned_scale(objective: nn.Module) -> dict[str, float]:
    """The inverse temperature that InfoNCE learned: what turns cosines into probabilities; nothing of other losses."""
    loss = next((module for module in objective.modules() if isinstance(module, InfoNCE)), None)
    return {} if loss is None else {"scale": loss.log_scale.exp().item()}


def build_optimizer(config: RunConfig, arm: nn.Module, objective: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of the run's arm and of its objective's own parameters."""
    # Of a pretrained target encoder only the pretrained weights learn more slowly.
    scaled = "target_encoder.trunk" if config.vljepa.target_weights else "target_encoder"
    return adamw(
        arm,
        objective,
        config=config.optimizer,
        scales={scaled: config.vljepa.target_learning_rate_scale} if config.arm == "vljepa" else None,
        # The decoder's gradient must not change how much of the backbone's is clipped.
        clipped_apart=("decoder",) if config.arm == "vljepa" else (),
    )


def run_order(config: RunConfig, setup: Setup) -> Order:
    """The order a run reads; both arms of one seed read the same. The supervised head learns from answers alone."""
    tasks = ("vqa",) if config.arm == "supervised" else None
    return setup.order(config.optimizer.steps, config.optimizer.batch_size, config.seed, tasks)


def training_batch(config: RunConfig, setup: Setup, order: Order, step: int, part: slice = _ALL) -> Batch:
    """The batch of one step, or a part of it: a pure function of the arguments."""
    collate = setup.collator("train")
    rows = order.rows[step, part]
    images = None
    if config.blind:  # every image stands in for another one, at every step anew: there is nothing to learn by heart
        own = np.array([collate.split.examples[row].image for row in rows])
        images = derangement(len(collate.split.images), step)[own]
    return collate(
        rows,
        query_forms=order.query_forms[step, part],
        target_forms=order.target_forms[step, part],
        views=order.views[step, part],
        images=images,
    )


def scored_steps(config: RunConfig) -> list[int]:
    """Log-spaced steps at which validation is scored, the last step included."""
    steps, evaluation = config.optimizer.steps, config.evaluation
    first = min(evaluation.first_checkpoint, steps)
    return sorted({round(step) for step in np.geomspace(steps, first, evaluation.checkpoints)})  # one: the last


def readout_of(arm: Arm, setup: Setup) -> Readout | SupervisedReadout:
    """How this arm is asked."""
    if not isinstance(arm, SupervisedArm):
        return speaking_readout(arm, setup.tokenizer, setup.config.tokenizer.max_target)
    split = setup.dataset["train"]
    return SupervisedReadout(arm, {text: setup.meanings.get(m, -1) for text, m in split.canonical_meaning.items()})


def validation_file(folder: Path, step: int) -> Path:
    """Where the per-item values of a scored checkpoint are kept: intervals of the learning curve need them."""
    return folder / "validation" / f"step-{step:06d}.json"


def score_validation(arm: Arm, setup: Setup, config: RunConfig, path: Path) -> dict[str, float]:
    """Mean of every metric over the first validation items, a point of the learning curve; writes them to `path`.

    Of all metrics that test is scored with, and of the probes of the trunk, which test has in more detail.
    """
    count = config.evaluation.items
    result = measure_arm(arm, setup, config, "validation", count)
    measure_probes(result, arm, setup.collator("train"), setup.collator("validation"), count)
    result.save(path)
    return result.means()


def monitor_of(arm: Arm, setup: Setup, config: RunConfig) -> Monitor | None:
    """What says whether a run collapses, of the numbers of `watch`; None where nothing could.

    The other arms have no space that could collapse, or one that is frozen; and one pair alone says nothing of it.
    """
    if config.arm != "vljepa" or len(setup.dataset["validation"].examples) < 2:
        return None
    assert isinstance(arm, EmbeddingArm)
    kept = what_keeps_apart(arm.target_encoder, config.vljepa.objective)
    return Monitor(partial(verdict_of, kept=kept), config.optimizer.steps)


def watch(arm: Arm, setup: Setup, config: RunConfig) -> dict[str, float]:
    """The collapse monitors of an embedding arm, on validation."""
    assert isinstance(arm, EmbeddingArm)
    return watch_arm(arm, setup.collator("validation"), config.optimizer.batch_size, setup.device)


def measure_arm(
    arm: Arm,
    setup: Setup,
    config: RunConfig,
    split: str,
    count: int,
    condition: Condition | None = None,
    captions: int | None = None,
) -> Measurement:
    """Everything that an arm can be asked on a split: questions, and captions and retrieval where it speaks.

    Args:
        config: of the arm's run.
        count, captions: what is asked, see `Items.first`.
        condition: of a control.
    """
    result, readout, collator = Measurement(), readout_of(arm, setup), setup.collator(split)
    items = Items.first(collator.split, count, captions)
    measure_vqa(result, readout, collator, items.vqa, condition)
    if not isinstance(readout, SupervisedReadout) and len(items.captions):
        measure_captions(result, readout, collator, items.captions, condition)
        if not (isinstance(readout, TokenReadout) and retrieval_gap(setup)):
            linear_map = retrieval_map(readout, setup, config)
            measure_retrieval(result, readout, collator, items.captions, linear_map, condition)
    return result


def retrieval_map(readout: Readout, setup: Setup, config: RunConfig) -> Any:
    """The linear map that the token arm's retrieval needs; VL-JEPA is trained to need none."""
    if not isinstance(readout, TokenReadout):
        return None
    captions = 2 * config.evaluation.items
    return fit_retrieval_map(readout, setup.collator("train"), setup.collator("validation"), captions)


def retrieval_gap(setup: Setup) -> str:
    """Why the token arm cannot retrieve on these data, or nothing where it can."""
    missing = [name for name in ("train", "validation") if name in setup.uncaptioned]
    if not missing:
        return ""
    return f"the token arm's linear map is fitted on captions, and there are none in {' and '.join(missing)}"


def inputs_of(setup: Setup) -> dict[str, Any]:
    """Digests of what a run reads, as its metrics keep them."""
    return {
        "data_digest": setup.dataset.digest(),
        "features_digest": setup.features("train").digest,
        "encoder_digest": setup.encoder.digest,
    }


def _card(config: RunConfig, setup: Setup, metrics: Mapping[str, Any]) -> str:
    final = metrics["curve"][-1]["scores"] if metrics["curve"] else {}
    lines = [
        f"# {config.arm} arm, seed {config.seed}",
        "",
        f"Trained on `{config.data.source}` for {metrics['steps']} steps of {config.optimizer.batch_size} samples, on",
        f"features of the frozen encoder `{config.encoder.weights}` ({setup.encoder.digest[:12]}).",
        variant_line(config),
        "",
        "| validation metric | last checkpoint |",
        "|---|---|",
        *(f"| {metric} | {value:.4f} |" for metric, value in final.items()),
        "",
    ]
    if alarm := alarm_line(metrics):
        lines += [alarm, ""]
    return "\n".join(lines)
