"""What the recipes on text share: how a model is fitted as configured, and what a run leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from archlab.config import to_yaml
from archlab.data.device import find_device, to_device
from archlab.data.tokenizer import TextTokenizer
from archlab.documents import table
from archlab.layers.dropout import set_dropout
from archlab.machine import describe, git_commit
from archlab.train.averaging import CheckpointAverage, ExponentialAverage, WeightAverage, keep_average
from archlab.train.checkpoint import fingerprint, load_checkpoint, save_checkpoint
from archlab.train.folder import check_folder, claim
from archlab.train.loop import History, Optimizer, Resume, fit
from archlab.train.optim import MuonWithAdamW, adamw_over, parameter_groups
from archlab.train.processes import once, own_rows
from archlab.train.recompute import recompute_blocks
from archlab.train.schedule import share_of_peak
from archlab.train.text.config import AverageConfig, TrainingConfig
from archlab.train.text.curve import plot_curve
from archlab.train.together import train_together

Row = Mapping[str, str | int | float | None]


@dataclass(frozen=True)
class Report:
    """What a finished run found.

    Attributes:
        rows: the table, one row per model, the trained one last; all have the same columns.
        metrics: anything else, for `metrics.json`.
        floors: name -> validation loss of simpler models, lines in the plot of the learning curve.
        note: a sentence or two for the card.
    """

    rows: Sequence[Row]
    metrics: Mapping[str, Any] = field(default_factory=dict)
    floors: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Task:
    """A model and all that is needed to train and to judge it.

    Attributes:
        name: of the run.
        model: on the device already (`device_of`), where the batches go.
        objective: what is minimised.
        batches: batch of each number, from 0 on.
        evaluate: scores on validation for the learning curve, `loss` among them; the model is in evaluation mode.
        report: what the finished run found.
        digests: name -> hash of the data.
        tokenizer: None where the model reads characters.
    """

    name: str
    model: nn.Module
    objective: nn.Module
    batches: Callable[[int], Any]
    evaluate: Callable[[], Mapping[str, float]]
    report: Callable[[History], Report]
    digests: Mapping[str, str]
    tokenizer: TextTokenizer | None = None


def train_task(config: Any, folder: Path, prepare: Callable[[], Task]) -> dict[str, Any]:
    """Train into `folder`, or finish what was interrupted, or open what is finished; the run's metrics.

    Args:
        config: has a section `training`, a `source` and a `seed`.
        prepare: makes the task; the model's random start is drawn from the seed.

    Raises:
        UserError: see `prepare`, or `folder` holds another run.
        KeyboardInterrupt: interrupted; the same call resumes.
    """
    once(partial(check_folder, folder, config))
    if (folder / "metrics.json").exists():
        return load_checkpoint(folder, type(config)).metrics
    with _seeded(config.seed):
        task = prepare()
        once(partial(claim, folder, config))
        owner = fingerprint(config, *task.digests.values())
        history = fit_task(task, config.training, Resume(folder / "state.pt", owner, config.training.resume_every))
        task.model.eval()
        report = once(partial(task.report, history))
    metrics = {
        "task": task.name,
        "source": config.source,
        "seed": config.seed,
        "commit": git_commit(),
        "machine": describe(),
        "device": str(device_of(config.training)),
        "data_digests": dict(task.digests),
        "parameters": parameters_of(task.model),
        "steps": config.training.steps,
        "seconds": history.seconds,
        **report.metrics,
        "table": [dict(row) for row in report.rows],
        "note": report.note,
        "curve": [asdict(point) for point in history.curve],
    }
    once(partial(_save, folder, task, config, metrics, report, history))
    return metrics


def _save(folder: Path, task: Task, config: Any, metrics: dict[str, Any], report: Report, history: History) -> None:
    plot_curve(history, report.floors, folder / "curve.png", task.name)
    save_checkpoint(folder, task.model, config, task.tokenizer, metrics, _card(config, task, report))
    (folder / "state.pt").unlink(missing_ok=True)  # the checkpoint is whole: nothing is left to resume


def fit_task(task: Task, config: TrainingConfig, resume: Resume | None = None) -> History:
    """Train the task's model as configured; it ends with the averaged weights, where there are such."""
    model, device = task.model, device_of(config)
    set_dropout(model, config.dropout, config.attention_dropout)
    if config.recompute:
        recompute_blocks(model)
    if config.compile:
        model.compile()
    average = _average(config.average)
    team = train_together(model, task.objective)

    def evaluate(step: int) -> Mapping[str, float]:
        with torch.no_grad():
            return task.evaluate()

    history = fit(
        model,
        team.objective,
        lambda number: to_device(own_rows(task.batches(number)), device),
        _optimizer(model, config),
        steps=config.steps,
        schedule=lambda step: (
            config.learning_rate
            * share_of_peak(
                step,
                config.steps,
                config.warmup,
                config.schedule,
                final=config.final,
                decay_fraction=config.decay_fraction,
            )
        ),
        gradient_clip=config.gradient_clip,
        precision=config.precision,
        accumulate=config.accumulate,
        average=average,
        evaluate=evaluate,
        evaluate_at=[*range(0, config.steps, config.evaluate_every), config.steps],
        resume=resume,
        together=team,
        description=task.name,
    )
    keep_average(model, average)
    return history


def device_of(config: TrainingConfig) -> torch.device:
    """The device that is configured; see `find_device`."""
    return find_device(config.device, "training.device")


def parameters_of(model: nn.Module) -> int:
    """Number of parameters, tied ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def markdown(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table."""
    columns = list(rows[0])
    return table(columns, [[_cell(row[column]) for column in columns] for row in rows]) + "\n"


def _cell(value: str | float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value


def _optimizer(model: nn.Module, config: TrainingConfig) -> Optimizer:
    betas = (0.9, config.beta2)
    if config.optimizer == "muon":
        return MuonWithAdamW(model, config.weight_decay, config.learning_rate, betas)
    return adamw_over(parameter_groups(model, config.weight_decay), config.learning_rate, betas)


def _average(config: AverageConfig) -> WeightAverage | None:
    if config.kind == "ema":
        return ExponentialAverage(config.decay)
    return CheckpointAverage(config.every, config.last) if config.kind == "checkpoints" else None


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw from this seed inside the block, whatever was drawn before; the caller's numbers go on as if it were not."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _card(config: Any, task: Task, report: Report) -> str:
    parts = [f"# {task.name}, seed {config.seed}", "", markdown(report.rows)]
    parts += [report.note, ""] if report.note else []
    return "\n".join([*parts, "```yaml", f"{to_yaml(config)}```", ""])
