"""What a run asks of the processes that train together, and the answers where there is only one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from archlab.train.checkpoint import load_state
from archlab.train.processes import count

Parallel = Literal["ddp", "fsdp"]
Result = TypeVar("Result")


class Stateful(Protocol):
    """A part of the run that is saved and restored with it."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


class RandomNumbers:
    """The state of the global random numbers. NumPy generators are made per step and hold no state."""

    def state_dict(self) -> dict[str, Any]:
        """Of the CPU, and of the GPU where one is used."""
        cuda = [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else []
        return {"cpu": torch.get_rng_state(), "cuda": cuda}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Go on from a saved state."""
        torch.set_rng_state(state["cpu"])
        for cuda in state["cuda"][:1] if torch.cuda.is_available() else []:
            torch.cuda.set_rng_state(cuda)


class Together(Protocol):
    """The processes that train one model; `train.distributed` has those of more than one."""

    def parts(self, parts: dict[str, Stateful], /) -> dict[str, Stateful]:
        """The parts of the run as they are saved, the random numbers among them."""
        ...

    def load(self, path: Path, owner: str, /) -> dict[str, Any] | None:
        """The training state at `path`; see `checkpoint.load_state`."""
        ...

    def agree(self, wanted: bool, /) -> bool:
        """Whether any process wants it."""
        ...

    def clip(self, parameters: list[Tensor], limit: float, /) -> Tensor:
        """Scale the gradients down to a norm of `limit` where it is larger; the norm before."""
        ...

    def score(self, work: Callable[[], Result], /) -> Result:
        """What `work` finds by looking at the model; one process does it for all."""
        ...

    def once(self, work: Callable[[], Result], /) -> Result:
        """What `work` returns; one process does it for all."""
        ...


class Alone:
    """A single process."""

    def parts(self, parts: dict[str, Stateful], /) -> dict[str, Stateful]:
        """See `Together`, as for all that follows."""
        return parts | {"random": RandomNumbers()}

    def load(self, path: Path, owner: str, /) -> dict[str, Any] | None:
        return load_state(path, owner)

    def agree(self, wanted: bool, /) -> bool:
        return wanted

    def clip(self, parameters: list[Tensor], limit: float, /) -> Tensor:
        return nn.utils.clip_grad_norm_(parameters, limit)

    def score(self, work: Callable[[], Result], /) -> Result:
        return work()

    once = score


class Single(Alone):
    """A single process: the model is trained as it is.

    Attributes:
        model: what is trained, and what the optimiser is made for.
        objective: what it is trained by.
    """

    def __init__(self, model: nn.Module, objective: nn.Module) -> None:
        self.model, self.objective = model, objective

    def collect(self) -> None:
        """Give the model that this was made of the weights of the one that is trained."""


class Team(Together, Protocol):
    """What `train_together` makes; see `Single`."""

    model: nn.Module
    objective: Any

    def collect(self) -> None: ...


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """What is sharded, gathered and let go one by one; all else of the model is gathered for the whole of a step."""
    return [
        block
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and name.rpartition(".")[2].endswith("blocks")
        for block in module
    ]


def train_together(model: nn.Module, objective: nn.Module, parallel: Parallel = "ddp") -> Team:
    """Let all processes of the job train `model`, on the device where it is.

    Args:
        parallel: how, where there are several; see `train.distributed`.

    Raises:
        UserError: there are more processes on a machine than it has GPUs.
    """
    if count() == 1:
        return Single(model, objective)
    from archlab.train.distributed import spread_over_processes  # which takes a while to import

    return spread_over_processes(model, objective, parallel)
