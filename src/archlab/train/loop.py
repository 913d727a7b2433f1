"""The training loop. It knows neither the model nor the objective nor the data.

Every input is a function of the step (batch, learning rate) or part of the saved state (weights, optimiser, random
numbers), so that a run that was interrupted and resumed equals one that was not, bit for bit.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from archlab.errors import UserError
from archlab.progress import track
from archlab.train.checkpoint import load_state, save_state

Model = TypeVar("Model", bound=nn.Module)
Batch = TypeVar("Batch")
_Model = TypeVar("_Model", bound=nn.Module, contravariant=True)
_Batch = TypeVar("_Batch", contravariant=True)


class Output(Protocol):
    """What the loop reads of an objective's result."""

    @property
    def loss(self) -> Tensor:
        """The scalar to minimise."""
        ...


class Objective(Protocol[_Model, _Batch]):
    """Model and batch to a loss; it may own parameters of its own, such as a temperature."""

    def __call__(self, model: _Model, batch: _Batch, /) -> Output: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


@dataclass(frozen=True)
class Resume:
    """Where the training state is kept.

    Attributes:
        path: the state file.
        owner: fingerprint of the run (`checkpoint.fingerprint`); a state of another run is refused.
        every: steps between two saves; it is also saved when the run is interrupted and when it ends.
    """

    path: Path
    owner: str
    every: int


@dataclass(frozen=True)
class Point:
    """One point of the learning curve.

    Attributes:
        step: updates done.
        seconds: spent on training so far, in all sessions together, without evaluations and saves.
        loss: mean over the steps since the point before; None at step 0.
        scores: what `evaluate` returned.
    """

    step: int
    seconds: float
    loss: float | None
    scores: dict[str, float]


@dataclass
class History:
    """What `fit` measured; `curve` holds a point for every evaluated step, `seconds` is the time spent on training."""

    curve: list[Point] = field(default_factory=list)
    seconds: float = 0.0


def fit(
    model: Model,
    objective: Objective[Model, Batch],
    batches: Callable[[int], Batch],
    optimizer: torch.optim.Optimizer,
    *,
    steps: int,
    schedule: Callable[[int], float],
    gradient_clip: float = math.inf,
    precision: Literal["float32", "bfloat16"] = "float32",
    evaluate: Callable[[int], Mapping[str, float]] | None = None,
    evaluate_at: Collection[int] = (),
    resume: Resume | None = None,
    description: str = "training",
) -> History:
    """Train `model` in place for `steps` updates, from the saved state on if there is one.

    Ctrl-C and SIGTERM take effect after the current step, once the state is saved; a second one takes effect at once.

    Args:
        batches: batch of each step, 0 to `steps - 1`; asked for every step once, in order, from the resumed one on.
        optimizer: may hold parameters of the objective too. A group's key `scale` multiplies its learning rate; the
            groups of one key `clip` are clipped together.
        schedule: learning rate of each step.
        gradient_clip: largest norm of the gradients that are clipped together; infinity never clips.
        precision: "bfloat16" computes matrix products in bfloat16 (autocast); the weights stay in float32.
        evaluate: called with the number of updates done, the model in evaluation mode; its scores go to the curve.
        evaluate_at: numbers of updates after which it is called, 0 for before the first.
        description: shown beside the progress bar.

    Raises:
        UserError: the loss or its gradient is not finite (the weights are left as they were before that step), or the
            saved state is damaged or belongs to another run.
        KeyboardInterrupt: the run was interrupted; the same call resumes it.
    """
    history, step = History(), 0
    losses: list[float] = []  # since the last point of the curve
    if resume is not None and (state := load_state(resume.path, resume.owner)) is not None:
        history, step, losses = _restore(state, model, objective, optimizer)
    saved = step
    clipped: defaultdict[str, list[Tensor]] = defaultdict(list)
    for group in optimizer.param_groups:
        clipped[group.get("clip", "")] += group["params"]
    device_type = optimizer.param_groups[0]["params"][0].device.type

    with _Interruption() as interruption, track(description, steps, done=step) as progress:
        model.train()
        while True:
            if evaluate is not None and step in evaluate_at and all(point.step < step for point in history.curve):
                model.eval()
                scores = {name: float(score) for name, score in evaluate(step).items()}
                model.train()
                loss_so_far = math.fsum(losses) / len(losses) if losses else None
                history.curve.append(Point(step, history.seconds, loss_so_far, scores))
                losses = []
            due = interruption.requested or step >= steps or (step > saved and resume and step % resume.every == 0)
            if resume is not None and due:
                save_state(resume.path, _state(history, step, losses, model, objective, optimizer), resume.owner)
                saved = step
            if interruption.requested or step >= steps:
                break

            started = time.perf_counter()
            rate = schedule(step)
            batch = batches(step)
            with torch.autocast(device_type, torch.bfloat16, enabled=precision == "bfloat16"):
                loss = objective(model, batch).loss
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.stack([nn.utils.clip_grad_norm_(part, gradient_clip) for part in clipped.values()]).max()
            losses.append(loss.item())
            for name, value in (("loss", losses[-1]), ("norm of its gradient", norm.item())):
                if not math.isfinite(value):
                    raise UserError(
                        f"step {step}: the {name} is {value}, not a finite number; lower optimizer.learning_rate "
                        f"(now {rate:.3g}) or optimizer.gradient_clip ({gradient_clip:g}), or look for broken inputs"
                    )
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("scale", 1.0)
            optimizer.step()
            step += 1
            history.seconds += time.perf_counter() - started
            progress.advance(loss=losses[-1])
    if interruption.requested:
        raise KeyboardInterrupt
    return history


def _state(
    history: History,
    step: int,
    losses: list[float],
    model: nn.Module,
    objective: Objective[Any, Any],
    optimizer: torch.optim.Optimizer,
) -> dict[str, Any]:
    """Everything that the rest of the run depends on. NumPy generators are made per step and hold no state."""
    return {
        "history": asdict(history),
        "step": step,
        "losses": losses,
        "model": model.state_dict(),
        "objective": objective.state_dict(),
        "optimizer": optimizer.state_dict(),
        "random": {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()},
    }


def _restore(
    state: dict[str, Any], model: nn.Module, objective: Objective[Any, Any], optimizer: torch.optim.Optimizer
) -> tuple[History, int, list[float]]:
    model.load_state_dict(state["model"])
    objective.load_state_dict(state["objective"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["random"]["cpu"])
    torch.cuda.set_rng_state_all(state["random"]["cuda"])
    curve = [Point(**point) for point in state["history"]["curve"]]
    return History(curve, state["history"]["seconds"]), state["step"], state["losses"]


class _Interruption:
    """Turns the first SIGINT or SIGTERM into a request; the second acts as if this class were not there."""

    def __init__(self) -> None:
        self.requested = False
        self.handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> _Interruption:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            for number in (signal.SIGINT, signal.SIGTERM):
                self.handlers[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        while self.handlers:
            signal.signal(*self.handlers.popitem())

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self.__exit__()
