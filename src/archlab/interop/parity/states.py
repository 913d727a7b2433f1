"""Hidden states of ours and theirs, layer by layer, read by hooks on the blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from archlab.interop.parity.probes import PROBES, questions
from archlab.interop.parity.results import STATES, Outcome, within
from archlab.interop.parity.twin import Twin


@dataclass(frozen=True)
class State:
    """The residual stream at one place.

    Attributes:
        place: "input of blocks.0", "output of blocks.2", "output of the model".
        block: number of the layer over all stacks that wrote it; -1 before the first of a stack, None after the last.
        ours, theirs: (B, T, W); at the end what the model gives.
    """

    place: str
    block: int | None
    ours: Tensor
    theirs: Tensor

    @property
    def error(self) -> float:
        """The largest difference."""
        return within(self.ours, self.theirs, STATES)[0]

    @property
    def equal(self) -> bool:
        """Whether every entry is within the tolerance."""
        return within(self.ours, self.theirs, STATES)[1]

    @property
    def outcome(self) -> Outcome:
        """All of it."""
        return self.error, self.equal, self.place


def states(twin: Twin) -> list[State]:
    """Every layer's input and output and the answer, in the order of computation."""
    probe, inputs = PROBES[twin.family.kind], questions(twin)
    return side_by_side(
        twin.model,
        twin.reference,
        twin.family.interop.BLOCKS,
        lambda: probe.ours(twin.model, inputs),
        lambda: probe.theirs(twin.reference, inputs),
    )


@torch.no_grad()
def side_by_side(
    model: nn.Module,
    reference: nn.Module,
    pairs: Sequence[tuple[str, str]],
    ask_ours: Callable[[], Tensor],
    ask_theirs: Callable[[], Tensor],
) -> list[State]:
    """`states` of any two models.

    Args:
        pairs: where the layers are, ours and theirs; see `interop.family.Interop.BLOCKS`.
        ask_ours, ask_theirs: call the models with the same inputs.
    """
    mine, answer = _recorded(model, [own for own, _ in pairs], ask_ours)
    yours, expected = _recorded(reference, [other for _, other in pairs], ask_theirs)
    found: list[State] = []
    before = 0
    for (path, _), own, other in zip(pairs, mine, yours, strict=True):
        assert len(own) == len(other), f"{path}: {len(own)} states, but the reference has {len(other)}"
        for layer, (one, two) in enumerate(zip(own, other, strict=True)):
            place = f"output of {path}.{layer - 1}" if layer else f"input of {path}.0"
            found.append(State(place, before + layer - 1 if layer else -1, one, two))
        before += len(own) - 1
    return [*found, State("output of the model", None, answer, expected)]


def blocks(twin: Twin) -> list[nn.Module]:
    """Our layers, over all stacks."""
    return [block for own, _ in twin.family.interop.BLOCKS for block in _layers(twin.model, own)]


def middle(layers: Sequence[nn.Module]) -> Sequence[nn.Module]:
    """The one in the middle, alone: where a bug is planted."""
    return layers[len(layers) // 2 :][:1]


def _recorded(model: nn.Module, paths: list[str], call: Callable[[], Tensor]) -> tuple[list[list[Tensor]], Tensor]:
    """Input of the first and output of every layer of each stack, and the result of the call."""
    kept: list[list[Tensor]] = [[] for _ in paths]
    hooks = []
    for path, stack in zip(paths, kept, strict=True):

        def enter(_: nn.Module, args: Any, options: Any, stack: list[Tensor] = stack) -> None:
            stack.append(args[0] if args else options["hidden_states"])

        def leave(_: nn.Module, __: Any, output: Any, stack: list[Tensor] = stack) -> None:
            stack.append(output[0] if isinstance(output, tuple) else output)

        layers = _layers(model, path)
        hooks.append(layers[0].register_forward_pre_hook(enter, with_kwargs=True))
        hooks += [layer.register_forward_hook(leave) for layer in layers]
    try:
        return kept, call()
    finally:
        for hook in hooks:
            hook.remove()


def _layers(model: nn.Module, path: str) -> list[nn.Module]:
    return list(model.get_submodule(path).children())
