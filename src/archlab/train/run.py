"""One training run of one arm: build, train with scored checkpoints, save. Resumes where it was interrupted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from archlab.config import RunConfig
from archlab.data.batch import Batch
from archlab.data.order import Order
from archlab.errors import UserError
from archlab.evaluate.controls import Condition, derangement
from archlab.evaluate.measure import (
    Items,
    Measurement,
    fit_retrieval_map,
    measure_captions,
    measure_retrieval,
    measure_vqa,
)
from archlab.evaluate.readout import Readout, SupervisedReadout, TokenReadout, speaking_readout
from archlab.evaluate.trunk_probes import measure_probes
from archlab.objectives.classification import Classification
from archlab.objectives.contrastive import InfoNCE
from archlab.objectives.embedding_prediction import SpokenPrediction, build_embedding_objective
from archlab.objectives.next_token import NextToken
from archlab.train.checkpoint import fingerprint, load_checkpoint, save_checkpoint
from archlab.train.folder import claim
from archlab.train.loop import Resume, fit
from archlab.train.optim import adamw
from archlab.train.schedule import learning_rate
from archlab.train.setup import Setup
from archlab.train.start import begin_with
from archlab.vl.arms import Arm, SupervisedArm, build_arm

_FINISHED = "metrics.json"


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
    claim(folder, config)
    if (folder / _FINISHED).exists():
        trained = load_checkpoint(folder, RunConfig).metrics
        if any(trained.get(key) != digest for key, digest in _inputs(setup).items()):
            raise UserError(
                f"output folder {folder}: its run was trained on other data or features than there are now; "
                f"name another with --out, or remove it"
            )
        return load_run(folder, setup)
    order = run_order(config, setup)
    classes = len(setup.answers)
    arm = build_arm(config, setup.encoder.width, setup.tokenizer.vocab_size, classes)
    started_from = begin_with(arm, config, setup) if config.start.run else []
    objective = build_objective(config)
    state = folder / "state.pt"
    history = fit(
        arm,
        objective,
        lambda step: training_batch(config, setup, order, step),
        build_optimizer(config, arm, objective),
        steps=config.optimizer.steps,
        schedule=lambda step: learning_rate(step, config.optimizer),
        gradient_clip=config.optimizer.gradient_clip,
        precision=config.optimizer.precision,
        evaluate=lambda step: score_validation(arm, setup, config, validation_file(folder, step)),
        evaluate_at=scored_steps(config),
        resume=Resume(state, fingerprint(config, *setup.digests(), *started_from), config.evaluation.resume_every),
        description=description,
    )
    metrics = {
        "steps": config.optimizer.steps,
        "samples": config.optimizer.steps * config.optimizer.batch_size,
        "seconds": history.seconds,
        "order_digest": order.digest(),
        **_inputs(setup),
        **learned_scale(objective),
        "curve": [asdict(point) for point in history.curve],
    }
    save_checkpoint(folder, arm, config, setup.tokenizer, metrics, _card(config, setup, metrics))
    state.unlink(missing_ok=True)  # the checkpoint is whole: nothing is left to resume
    return Run(config, folder, arm.eval(), metrics)


def load_run(folder: Path, setup: Setup) -> Run:
    """Open a finished run, against the data and the encoder of `setup`."""
    checkpoint = load_checkpoint(folder, RunConfig)
    arm = build_arm(checkpoint.config, setup.encoder.width, setup.tokenizer.vocab_size, len(setup.answers))
    checkpoint.load_into(arm)
    return Run(checkpoint.config, folder, arm.eval(), checkpoint.metrics)


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


def build_optimizer(config: RunConfig, arm: Arm, objective: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of the run's arm and of its objective's own parameters."""
    return adamw(
        arm,
        objective,
        config=config.optimizer,
        scales={"target_encoder": config.vljepa.target_learning_rate_scale} if config.arm == "vljepa" else None,
        # The decoder's gradient must not change how much of the backbone's is clipped.
        clipped_apart=("decoder",) if config.arm == "vljepa" else (),
    )


def run_order(config: RunConfig, setup: Setup) -> Order:
    """The order a run reads; both arms of one seed read the same. The supervised head learns from answers alone."""
    tasks = ("vqa",) if config.arm == "supervised" else None
    return setup.order(config.optimizer.steps, config.optimizer.batch_size, config.seed, tasks)


def training_batch(config: RunConfig, setup: Setup, order: Order, step: int) -> Batch:
    """The batch of one step, a pure function of its arguments."""
    collate = setup.collator("train")
    rows = order.rows[step]
    images = None
    if config.blind:  # every image stands in for another one, at every step anew: there is nothing to learn by heart
        own = np.array([collate.split.examples[row].image for row in rows])
        images = derangement(len(collate.split.images), step)[own]
    return collate(
        rows,
        query_forms=order.query_forms[step],
        target_forms=order.target_forms[step],
        views=order.views[step],
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


def measure_arm(
    arm: Arm, setup: Setup, config: RunConfig, split: str, count: int, condition: Condition | None = None
) -> Measurement:
    """Everything that an arm can be asked on a split: questions, and captions and retrieval where it speaks.

    Args:
        config: of the arm's run.
        count: the first so many questions, and as many captions at most.
        condition: of a control.
    """
    result, readout, collator = Measurement(), readout_of(arm, setup), setup.collator(split)
    items = Items.first(collator.split, count)
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


def _inputs(setup: Setup) -> dict[str, Any]:
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
        "",
        "| validation metric | last checkpoint |",
        "|---|---|",
        *(f"| {metric} | {value:.4f} |" for metric, value in final.items()),
        "",
    ]
    return "\n".join(lines)
