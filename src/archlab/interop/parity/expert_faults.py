"""Bugs of mixtures of experts to plant in our own model; see `faults`."""

from __future__ import annotations

from collections.abc import Sequence

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
    cause = "the correction bias weights the experts; it may only choose them"
    return Fault(cause, _become(_WeighingCorrection), _become(Router))


def best_instead_of_two() -> Fault:
    """A group is as good as its best expert, as in DeepSeek-V2."""
    cause = "groups of experts are scored by their best expert instead of the sum of their best two"
    return Fault(cause, _become(_BestOfGroup), _become(Router))


def missing_scale() -> Fault:
    """The weights add up to one instead of the routed scaling factor."""

    def plant(_: nn.Module, blocks: Sequence[nn.Module]) -> None:
        for router in find(blocks, Router):
            router.scale = 1.0

    def repair(model: nn.Module, blocks: Sequence[nn.Module]) -> None:
        for router in find(blocks, Router):
            router.scale = model.config.routed_scale  # type: ignore[union-attr, assignment]

    return Fault("the routed scaling factor is missing", plant, repair)


class _WeighingCorrection(Router):
    def weigh(self, experts: Tensor, scores: Tensor, preference: Tensor) -> Tensor:
        return super().weigh(experts, preference, preference)


class _BestOfGroup(Router):
    def score_groups(self, preference: Tensor) -> Tensor:
        return preference.amax(-1)


def _become(kind: type[Router]) -> Edit:
    """Give every router the methods of this class; its state stays."""

    def edit(_: nn.Module, blocks: Sequence[nn.Module]) -> None:
        for router in find(blocks, Router):
            router.__class__ = kind

    return edit
