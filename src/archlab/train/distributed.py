"""One model trained by all processes of a job: replicated (DDP) or sharded (FSDP2).

Each process reads its rows of every batch. Losses that look at several samples are those of the whole batch
(`objectives.global_batch`), so that N processes do what one does, up to the rounding of sums. What is saved is whole:
any number of processes resumes it, and the same number bit for bit.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from archlab.data.device import device_of
from archlab.errors import UserError
from archlab.objectives.global_batch import spread
from archlab.objectives.output import Output
from archlab.train.batch_norm import normalise_together
from archlab.train.checkpoint import load_state
from archlab.train.processes import count, everyone, once, rank
from archlab.train.together import Parallel, RandomNumbers, Stateful, blocks_of

Result = TypeVar("Result")


def spread_over_processes(model: nn.Module, objective: nn.Module, parallel: Parallel) -> Replicated | Sharded:
    """See `together.train_together`."""
    if device_of(model).type == "cuda" and len(set(everyone(_gpu()))) < count():
        raise UserError(
            f"{count()} processes: there are fewer GPUs; lower --nproc-per-node to their number on each machine, or "
            f"train on the processor with device=cpu"
        )
    return Sharded(model, objective) if parallel == "fsdp" else Replicated(model, objective)


class Replicated:
    """DDP: every process holds the whole model and averages the gradients with the others.

    Args, attributes: see `together.Single`.
    """

    def __init__(self, model: nn.Module, objective: nn.Module) -> None:
        self.model = model
        normalise_together(model)
        # Buckets that DDP rebuilds after its first step would add up in another order after a resumption; those of
        # `find_unused_parameters` stay. Where that finds none it warns, so there is one.
        unused = nn.ParameterList([torch.zeros(1, device=device_of(model))])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of `broadcast_buffers`, whose successor is new
            step = DistributedDataParallel(
                _Step(model, objective, unused), broadcast_buffers=False, find_unused_parameters=True
            )
        self.objective = _Spread(step, objective)
        _draw_apart()

    def parts(self, parts: dict[str, Stateful], /) -> dict[str, Stateful]:
        """See `Together`, as for all that follows."""
        return parts | {"random": _RandomNumbersOfAll()}

    def load(self, path: Path, owner: str, /) -> dict[str, Any] | None:
        state = load_state(path, owner)
        if len(set(everyone(None if state is None else state["step"]))) > 1:
            raise UserError(
                f"training state {path}: not all processes find the same; --out must be on a file system that all "
                f"machines share"
            )
        return state

    def agree(self, wanted: bool, /) -> bool:
        votes = torch.tensor(int(wanted))
        dist.all_reduce(votes)
        return bool(votes)

    def clip(self, parameters: list[Tensor], limit: float, /) -> Tensor:
        return nn.utils.clip_grad_norm_(parameters, limit)

    def score(self, work: Callable[[], Result], /) -> Result:
        return once(work)

    def once(self, work: Callable[[], Result], /) -> Result:
        return once(work)

    def collect(self) -> None:
        """See `together.Single`; here, too, they are the same."""


class Sharded(Replicated):
    """FSDP2: every process holds a share of all weights, gradients and optimiser states, block by block.

    The model that this is made of stays whole, with the weights that it had when they were last collected: it is what
    is evaluated and saved. It waits in the memory of the processor: a device that held it beside its share would hold
    more than it does without sharding. Only where it is evaluated, and only meanwhile, is it on that device.

    Attributes:
        model: a copy of it, sharded.
    """

    def __init__(self, model: nn.Module, objective: nn.Module) -> None:
        self.device = device_of(model)
        self.whole = model.cpu()
        self.model = copy.deepcopy(model)
        mesh = init_device_mesh(self.device.type, (count(),))
        for block in blocks_of(self.model):
            fully_shard(block, mesh=mesh)  # which moves the block to the device, and leaves only a share of it there
        step = _Step(self.model)
        fully_shard(step, mesh=mesh)
        self.objective = _Spread(step, objective)
        for parameter in objective.parameters():  # single numbers, which cannot be sharded
            dist.broadcast(parameter.data, 0)
            parameter.register_post_accumulate_grad_hook(_average_gradient)
        _draw_apart()

    def parts(self, parts: dict[str, Stateful], /) -> dict[str, Stateful]:
        model, optimizer = _WholeModel(self.model), _WholeOptimizer(parts["optimizer"])
        return super().parts(parts) | {"model": model, "optimizer": optimizer}

    def clip(self, parameters: list[Tensor], limit: float, /) -> Tensor:
        gradients = [one.grad for one in parameters if one.grad is not None]
        kinds = [[one for one in gradients if isinstance(one, DTensor) == sharded] for sharded in (True, False)]
        norms = [_full(nn.utils.get_total_norm(kind)) for kind in kinds if kind]
        norm = torch.linalg.vector_norm(torch.stack(norms))
        nn.utils.clip_grads_with_norm_(parameters, limit, norm)
        return norm

    def score(self, work: Callable[[], Result], /) -> Result:
        self.collect()
        self.whole.eval()

        def on_the_device() -> Result:
            self.whole.to(self.device)
            try:
                return work()
            finally:
                self.whole.cpu()

        return once(on_the_device)

    @torch.no_grad()
    def collect(self) -> None:
        whole = self.whole.state_dict()
        for name, tensor in self.model.state_dict().items():
            whole[name].copy_(_full(tensor))


class _Step(nn.Module):
    """Model and objective as one module, whose call is what DDP and FSDP prepare and follow.

    Args:
        parts: the model, and what else has parameters to be looked after.
    """

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, objective: nn.Module, batch: Any) -> tuple[Tensor, Output]:
        output = objective(self.parts[0], batch)
        return output.loss, output  # the loss by itself: it is looked for in tuples alone


class _Spread:
    """The objective over the batch of all processes: loss, parts and weight are those of the whole batch."""

    def __init__(self, step: nn.Module, objective: nn.Module) -> None:
        self.step, self.objective = step, objective

    def __call__(self, model: nn.Module, batch: Any) -> Output:
        with spread():
            loss, output = self.step(self.objective, batch)
        own = torch.stack([loss.detach(), *output.parts.values()]).double() / count()
        values = torch.cat([own, own.new_tensor([output.weight])])
        dist.all_reduce(values)
        value, *parts, weight = values.to(loss.dtype)
        # The value is that of all; the gradient is that of the own share, and is averaged with the others.
        return Output(
            loss - loss.detach() + value, dict(zip(output.parts, parts, strict=True)), output.embeddings, float(weight)
        )

    def state_dict(self) -> dict[str, Any]:
        return self.objective.state_dict()

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        self.objective.load_state_dict(state)


class _RandomNumbersOfAll:
    """The random numbers of every process; another number of processes goes on from those of the first."""

    def state_dict(self) -> dict[str, Any]:
        first, *others = everyone(RandomNumbers().state_dict())
        return first | {"others": others}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        states = [state, *state.get("others", [])]
        RandomNumbers().load_state_dict(states[rank()] if len(states) == count() else state)
        if len(states) != count():
            _draw_apart()


class _WholeModel:
    """A sharded model as a single process has it; only the first process gets its tensors."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def state_dict(self) -> dict[str, Any]:
        return {name: _saved(tensor) for name, tensor in self.model.state_dict().items()}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        own = self.model.state_dict()
        self.model.load_state_dict({name: _like(value, own[name]) for name, value in state.items()})


class _WholeOptimizer:
    """The optimiser of a sharded model as that of a whole one; only the first process gets its tensors."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer

    def state_dict(self) -> dict[str, Any]:
        saved = self.optimizer.state_dict()
        of_parameters = {
            number: {name: _saved(value) for name, value in state.items()} for number, state in saved["state"].items()
        }
        return saved | {"state": of_parameters}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        parameters = [one for group in self.optimizer.param_groups for one in group["params"]]
        of_parameters = {
            number: {
                name: _like(value, parameters[number]) if value.shape == parameters[number].shape else value
                for name, value in values.items()
            }
            for number, values in state["state"].items()
        }
        self.optimizer.load_state_dict(state | {"state": of_parameters})


def _full(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _saved(tensor: Tensor) -> Tensor:
    """The whole tensor on the CPU for the first process, which saves it; nothing for the others."""
    whole = _full(tensor)
    return whole.cpu() if rank() == 0 else whole.new_empty(0)


def _like(whole: Tensor, sharded: Tensor) -> Tensor:
    """`whole` sharded as `sharded` is."""
    if not isinstance(sharded, DTensor):
        return whole
    return distribute_tensor(whole, sharded.device_mesh, sharded.placements)


def _average_gradient(parameter: Tensor) -> None:
    assert parameter.grad is not None
    dist.all_reduce(parameter.grad)
    parameter.grad /= count()


def _draw_apart() -> None:
    """Other random numbers (of dropout, say) for every process but the first, which has those of a single one."""
    if rank():
        torch.manual_seed(int(torch.randint(2**62, ())) + rank())


def _gpu() -> str:
    return f"{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"
