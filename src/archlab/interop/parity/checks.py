"""The comparisons that every family goes through, whatever its kind."""

from __future__ import annotations

import torch
from torch import Tensor

from archlab.interop.parity.probes import PROBES, questions
from archlab.interop.parity.results import EXACT, GRADIENTS, Tolerance, within
from archlab.interop.parity.states import states
from archlab.interop.parity.twin import Twin, file_names

Outcome = tuple[float, bool, str]
"""Largest error, whether all is within the tolerance, and where."""


def worst(pairs: dict[str, tuple[Tensor, Tensor]], tolerance: Tolerance) -> Outcome:
    """Compare named pairs, ours and theirs: the first that fails, or else the one that is furthest off."""
    outcomes = [(*within(ours, theirs, tolerance), name) for name, (ours, theirs) in pairs.items()]
    failed = [outcome for outcome in outcomes if not outcome[1]]
    return failed[0] if failed else max(outcomes)


def hidden_states(twin: Twin) -> Outcome:
    """Residual stream before the first layer and after each."""
    found = states(twin)[:-1]
    first = next((state for state in found if not state.equal), None) or max(found, key=lambda state: state.error)
    return first.error, first.equal, first.place


def output(twin: Twin) -> Outcome:
    """What the model gives: logits, or normalised states."""
    last = states(twin)[-1]
    return last.error, last.equal, last.place


def gradients(twin: Twin) -> Outcome:
    """The gradient of a random linear function of the output by every parameter, and by images."""
    probe, inputs = PROBES[twin.family.kind], questions(twin)
    mine, yours = inputs.clone(), inputs.clone()
    for given in (mine, yours):
        given.requires_grad_(given.is_floating_point())
    twin.model.zero_grad()
    twin.reference.zero_grad()
    answer, expected = probe.ours(twin.model, mine), probe.theirs(twin.reference, yours)
    upstream = torch.randn(answer.shape, generator=torch.Generator().manual_seed(1))
    answer.backward(upstream)
    expected.backward(upstream)
    ours = twin.weights.to_hf(_gradients(twin.model))
    theirs = file_names(twin.reference, _gradients(twin.reference))
    pairs = {name: (ours[name], theirs[name]) for name in ours}
    if mine.grad is not None and yours.grad is not None:
        pairs["inputs"] = mine.grad, yours.grad
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


def _gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    """Of every parameter by its name; zeros where there is none, so that a missing one differs."""
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in model.named_parameters()
    }
