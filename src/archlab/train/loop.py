"""The training loop. It knows neither the model nor the objective nor the data, nor how many processes train.

Every input is a function of the step (batch, learning rate) or part of the saved state (weights, their average, the
optimiser, the loss scale, random numbers), so that a run that was interrupted and resumed equals one that was not, bit
for bit.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from archlab.errors import DivergedError
from archlab.progress import track
from archlab.train.averaging import WeightAverage, averaged
from archlab.train.checkpoint import save_state
from archlab.train.together import Alone, Stateful, Together

Precision = Literal["float32", "bfloat16", "float16"]
_AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_SMALLEST_SCALE = 2.0**-24  # a loss scale that halves below this meets gradients that no scale makes finite

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

    @property
    def weight(self) -> float:
        """Number of targets that the loss is the mean of; gradients accumulate in this proportion."""
        ...


class Objective(Protocol[_Model, _Batch]):
    """Model and batch to a loss; it may own parameters of its own, such as a temperature."""

    def __call__(self, model: _Model, batch: _Batch, /) -> Output: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


class Optimizer(Stateful, Protocol):
    """What the loop uses of `torch.optim.Optimizer`."""

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Parameters and their options."""
        ...

    def zero_grad(self, set_to_none: bool = True) -> None: ...

    def step(self) -> Any: ...


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
    optimizer: Optimizer,
    *,
    steps: int,
    schedule: Callable[[int], float],
    gradient_clip: float = math.inf,
    precision: Precision = "float32",
    accumulate: int = 1,
    average: WeightAverage | None = None,
    evaluate: Callable[[int], Mapping[str, float]] | None = None,
    evaluate_at: Collection[int] = (),
    resume: Resume | None = None,
    together: Together | None = None,
    description: str = "training",
) -> History:
    """Train `model` in place for `steps` updates, from the saved state on if there is one.

    Ctrl-C and SIGTERM take effect after the current step, once the state is saved; a second one takes effect at once.

    Args:
        batches: batch of each step, 0 to `steps - 1`; asked for every step once, in order, from the resumed one on.
            With `accumulate` there are `steps * accumulate` of them.
        optimizer: may hold parameters of the objective too. A group's key `scale` multiplies its learning rate; the
            groups of one key `clip` are clipped together.
        schedule: learning rate of each step.
        gradient_clip: largest norm of the gradients that are clipped together; infinity never clips.
        precision: "bfloat16" and "float16" compute matrix products in these (autocast); the weights stay in float32.
            With "float16" the loss is scaled so that small gradients survive; a step whose gradients overflow is left
            out and halves the scale (arXiv 1710.03740, section 3.2).
        accumulate: batches whose gradients make one update, each weighing as many targets as it has: the update is
            that of one batch of all of them.
        average: follows the weights; evaluations see its average. The model keeps its own weights.
        evaluate: called with the number of updates done, the model in evaluation mode; its scores go to the curve.
        evaluate_at: numbers of updates after which it is called, 0 for before the first.
        together: the processes that train; by default this one alone. `batches` gives each its own part, and the loss
            of the objective and its gradient are those of all parts.
        description: shown beside the progress bar.

    Raises:
        DivergedError: the loss or its gradient is not finite (the weights are left as they were before that step).
        UserError: the saved state is damaged or belongs to another run.
        KeyboardInterrupt: the run was interrupted; the same call resumes it.
    """
    together = together or Alone()
    history, step = History(), 0
    losses: list[float] = []  # since the last point of the curve
    clipped: defaultdict[str, list[Tensor]] = defaultdict(list)
    for group in optimizer.param_groups:
        clipped[group.get("clip", "")] += group["params"]
    device_type = optimizer.param_groups[0]["params"][0].device.type
    as_torch = cast(torch.optim.Optimizer, optimizer)  # the scaler asks for no more than the protocol has
    scaler = torch.amp.GradScaler(device_type, enabled=precision == "float16")
    # What is not used is not saved: a state holds what its run depends on and nothing else.
    parts: dict[str, Stateful] = {"model": model, "objective": objective, "optimizer": optimizer}
    parts |= {"scaler": scaler} if scaler.is_enabled() else {}
    parts |= {"average": average} if average is not None else {}
    parts = together.parts(parts)
    if resume is not None and (state := together.load(resume.path, resume.owner)) is not None:
        history, step, losses = _restore(state, parts)
    saved = step

    with _Interruption() as interruption, track(description, steps, done=step) as progress:
        model.train()
        while True:
            if evaluate is not None and step in evaluate_at and all(point.step < step for point in history.curve):
                model.eval()
                with averaged(model, average):
                    scores = together.score(partial(_plain, evaluate, step))
                model.train()
                loss_so_far = math.fsum(losses) / len(losses) if losses else None
                history.curve.append(Point(step, history.seconds, loss_so_far, scores))
                losses = []
            interrupted = together.agree(interruption.requested)
            due = interrupted or step >= steps or (step > saved and resume and step % resume.every == 0)
            if resume is not None and due:
                state = _state(history, step, losses, parts)
                together.once(partial(save_state, resume.path, state, resume.owner))
                saved = step
            if interrupted or step >= steps:
                break

            started = time.perf_counter()
            rate = schedule(step)
            optimizer.zero_grad(set_to_none=True)
            own_batches = map(batches, range(step * accumulate, (step + 1) * accumulate))
            losses.append(_backward(model, objective, own_batches, [*chain(*clipped.values())], scaler, precision))
            scaler.unscale_(as_torch)
            norm = torch.stack([together.clip(part, gradient_clip) for part in clipped.values()]).max()
            overflow = scaler.is_enabled() and scaler.get_scale() > _SMALLEST_SCALE  # then it is no error of the run
            for name, value in (("loss", losses[-1]), ("norm of its gradient", 0.0 if overflow else norm.item())):
                if not math.isfinite(value):
                    raise DivergedError(
                        f"step {step}: the {name} is {value}, not a finite number; lower optimizer.learning_rate "
                        f"(now {rate:.3g}) or optimizer.gradient_clip ({gradient_clip:g}), or look for broken inputs"
                    )
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("scale", 1.0)
            scaler.step(as_torch)
            scaler.update()
            step += 1
            if average is not None:
                average.update(model, step)
            history.seconds += time.perf_counter() - started
            progress.advance(loss=losses[-1])
    if interrupted:
        raise KeyboardInterrupt
    return history


def _plain(evaluate: Callable[[int], Mapping[str, float]], step: int) -> dict[str, float]:
    return {name: float(score) for name, score in evaluate(step).items()}


def _backward(
    model: Model,
    objective: Objective[Model, Batch],
    batches: Iterable[Batch],
    parameters: Collection[Tensor],
    scaler: torch.amp.GradScaler,
    precision: Precision,
) -> float:
    """Leave in `parameters` the (scaled) gradient of the mean loss over the targets of all `batches`; that loss."""
    device_type = next(iter(parameters)).device.type
    losses, shares, first = [], [], None
    for batch in batches:
        with torch.autocast(device_type, _AUTOCAST.get(precision), enabled=precision in _AUTOCAST):
            output = objective(model, batch)
        first = first or output.weight
        shares.append(output.weight / first)  # of about one: the sum of all weights could overflow float16
        scaler.scale(output.loss * shares[-1]).backward()
        losses.append(output.loss.item() * shares[-1])
    if len(shares) > 1:
        for gradient in (parameter.grad for parameter in parameters if parameter.grad is not None):
            gradient /= math.fsum(shares)
    return math.fsum(losses) / math.fsum(shares)


def _state(history: History, step: int, losses: list[float], parts: Mapping[str, Stateful]) -> dict[str, Any]:
    """Everything that the rest of the run depends on."""
    saved = {name: part.state_dict() for name, part in parts.items()}
    return {"history": asdict(history), "step": step, "losses": losses} | saved


def _restore(state: dict[str, Any], parts: Mapping[str, Stateful]) -> tuple[History, int, list[float]]:
    for name, part in parts.items():
        part.load_state_dict(state[name])
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
