"""A small real training task; run as a program it trains until it is interrupted, for the test of signals.

python toy.py FOLDER RESULT     prints one line per step
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from archlab.config import OptimizerConfig
from archlab.train.loop import History, Resume, fit
from archlab.train.optim import adamw
from archlab.train.schedule import learning_rate

STEPS = 24
EVALUATE_AT = (0, 5, 10, 24)


@dataclass(frozen=True)
class Output:
    loss: Tensor
    weight: float = 1.0


class ScaledError(nn.Module):
    """Squared error times a learned factor: an objective that owns a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(1.0))

    def forward(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Output:
        inputs, targets = batch
        return Output(((model(inputs) - targets) ** 2).mean() * (1 + self.factor**2))


def batches(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(16, 6, generator=generator)
    return inputs, inputs.sin()


def make(seed: int = 0) -> tuple[nn.Module, ScaledError, torch.optim.AdamW]:
    """Model (with dropout, so that random numbers matter), objective and optimiser."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 32), nn.GELU(), nn.Dropout(0.3), nn.Linear(32, 6))
    objective = ScaledError()
    return model, objective, adamw(model, objective, config=CONFIG)


CONFIG = OptimizerConfig(steps=STEPS, learning_rate=0.01, warmup_fraction=0.2)


def train(
    folder: Path | None = None,
    *,
    seed: int = 0,
    every: int = 7,
    on_batch: Callable[[int], None] = lambda step: None,
    **options: Any,
) -> tuple[dict[str, Tensor], History]:
    """Train the toy task; the final tensors of model, objective and optimiser, and the history."""
    model, objective, optimizer = make(seed)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        on_batch(step)
        return batches(step)

    def evaluate(step: int) -> Mapping[str, float]:
        assert not model.training
        inputs, targets = batches(10_000)
        with torch.no_grad():
            noise = torch.rand(()).item()  # evaluation may draw random numbers too
            return {"error": ((model(inputs) - targets) ** 2).mean().item(), "noise": noise}

    options = {"evaluate": evaluate, "evaluate_at": EVALUATE_AT, "steps": STEPS} | options
    history = fit(
        model,
        objective,
        batch,
        optimizer,
        schedule=partial(learning_rate, config=CONFIG),
        resume=Resume(folder / "state.pt", "toy", every) if folder else None,
        **options,
    )
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"objective.{name}": tensor for name, tensor in objective.state_dict().items()}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{name}": tensor for name, tensor in state.items()}
    return tensors, history


def curve(history: History) -> list[tuple[Any, ...]]:
    """The curve without the clock."""
    return [(point.step, point.loss, point.scores) for point in history.curve]


if __name__ == "__main__":

    def report(step: int) -> None:
        print(step, flush=True)
        time.sleep(0.05)  # leaves the test time to interrupt

    torch.set_num_threads(1)
    tensors, history = train(Path(sys.argv[1]), every=1000, on_batch=report)
    torch.save({"tensors": tensors, "curve": curve(history)}, sys.argv[2])
