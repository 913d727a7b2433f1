"""The comparisons that every family goes through, whatever its kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from archlab.interop.parity.probes import PROBES, Inputs, questions
from archlab.interop.parity.results import EXACT, GRADIENTS, Outcome, Tolerance, within
from archlab.interop.parity.states import states
from archlab.interop.parity.twin import Twin, file_names


def first_failed(outcomes: Sequence[Outcome]) -> Outcome:
    """The first that fails, or else the one that is furthest off."""
    return next((outcome for outcome in outcomes if not outcome[1]), max(outcomes))


def worst(pairs: Mapping[str, tuple[Tensor, Tensor]], tolerance: Tolerance) -> Outcome:
    """`first_failed` of named pairs, ours and theirs."""
    return first_failed([(*within(ours, theirs, tolerance), name) for name, (ours, theirs) in pairs.items()])


def hidden_states(twin: Twin) -> Outcome:
    """Residual stream before the first layer and after each."""
    return first_failed([state.outcome for state in states(twin)[:-1]])


def output(twin: Twin) -> Outcome:
    """What the model gives: logits, or normalised states."""
    return states(twin)[-1].outcome


def gradients(twin: Twin) -> Outcome:
    """The gradient of a random linear function of the output by every parameter, and by images."""
    probe, mine, yours = PROBES[twin.family.kind], questions(twin), questions(twin)
    images = list(zip(_differentiable(mine), _differentiable(yours), strict=True))
    twin.model.zero_grad()
    twin.reference.zero_grad()
    answer, expected = probe.ours(twin.model, mine), probe.theirs(twin.reference, yours)
    upstream = torch.randn(answer.shape, generator=torch.Generator().manual_seed(1))
    answer.backward(upstream)
    expected.backward(upstream)
    ours = twin.weights.to_hf(gradients_of(twin.model))
    theirs = file_names(twin.reference, gradients_of(twin.reference))
    pairs = {name: (ours[name], theirs[name]) for name in ours}
    for one, other in images:
        assert one.grad is not None
        assert other.grad is not None
        pairs["inputs"] = one.grad, other.grad
    return worst(pairs, GRADIENTS)


def round_trip(twin: Twin) -> Outcome:
    """Weights and configuration: to_hf(from_hf(x)) is x, bit for bit."""
    interop = twin.family.interop
    if interop.config_from_hf(interop.config_to_hf(twin.config)) != twin.config:
        return 1.0, False, "configuration"
    original = file_names(twin.reference, twin.reference.state_dict())
    shapes = {name: tensor.shape for name, tensor in twin.model.state_dict().items()}
    returned = twin.weights.to_hf(twin.weights.from_hf(original, shapes))
    return worst({name: (returned[name], original[name]) for name in returned}, EXACT)


def _differentiable(inputs: Inputs) -> list[Tensor]:
    """Those inputs that are no indices, gradients switched on."""
    tensors = inputs if isinstance(inputs, tuple) else (inputs,)
    return [tensor.requires_grad_() for tensor in tensors if tensor.is_floating_point()]


def gradients_of(model: torch.nn.Module) -> dict[str, Tensor]:
    """Of every weight by its name; zeros where there is none, as for buffers, so that a missing one differs."""
    return {
        name: torch.zeros_like(weight) if weight.grad is None else weight.grad
        for name, weight in model.state_dict(keep_vars=True).items()
    }
