"""Bugs of mixtures of experts to plant in our own model; see `faults`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import MethodType

from torch import Tensor, nn

from archlab.interop.parity.faults import Edit, Fault, find
from archlab.layers.moe import MixtureOfExperts, Router


def not_renormalised() -> Fault:
    """The weights of a token's experts do not add up to one."""

    def edit(renormalise: bool) -> Edit:
        def switch(_: nn.Module, blocks: Sequence[nn.Module]) -> None:
            for router in find(blocks, Router):
                router.renormalise = renormalise

        return switch

    return Fault("the weights of the chosen experts are not renormalised", edit(False), edit(True))


def swapped_gate_and_up() -> Fault:
    """w1 and w3 are taken for each other: the activation is applied to the wrong half."""

    def edit(_: nn.Module, blocks: Sequence[nn.Module]) -> None:
        for mixture in find(blocks, MixtureOfExperts):
            mixture.gate_proj, mixture.up_proj = mixture.up_proj, mixture.gate_proj

    return Fault("the gates of the experts and their other inputs are swapped (w1 and w3)", edit, edit)


def weighing_correction() -> Fault:
    """The correction takes part in the weights."""

    def weigh(self: Router, experts: Tensor, _: Tensor, preference: Tensor) -> Tensor:
        return Router.weigh(self, experts, preference, preference)

    cause = "the correction bias weights the experts; it may only choose them"
    return Fault(cause, _use("weigh", weigh), _use("weigh", Router.weigh))


def best_instead_of_two() -> Fault:
    """A group is as good as its best expert, as in DeepSeek-V2."""

    def score_groups(_: Router, preference: Tensor) -> Tensor:
        return preference.amax(-1)

    cause = "groups of experts are scored by their best expert instead of the sum of their best two"
    return Fault(cause, _use("score_groups", score_groups), _use("score_groups", Router.score_groups))


def _use(name: str, function: Callable[..., Tensor]) -> Edit:
    """Give every router another method of this name."""

    def edit(_: nn.Module, blocks: Sequence[nn.Module]) -> None:
        for router in find(blocks, Router):
            setattr(router, name, MethodType(function, router))

    return edit
