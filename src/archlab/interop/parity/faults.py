"""Bugs to plant in our own model: parity must notice them, and knows them again when it explains a difference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import nn

from archlab.layers.attention import Attention
from archlab.layers.block import Block, CrossBlock
from archlab.layers.feedforward import MLP, GatedMLP
from archlab.layers.norms import RMSNorm
from archlab.layers.positions import RotaryEmbedding, RotaryLayout

Layer = TypeVar("Layer", bound=nn.Module)
Activation = Literal["gelu", "gelu-tanh", "relu"]
Edit = Callable[[nn.Module, Sequence[nn.Module]], None]
"""Changes a model in place: the model, and those of its layers that are to be changed."""


@dataclass(frozen=True)
class Fault:
    """A bug and its cure.

    Attributes:
        cause: what is wrong, in words that finish "likely cause: ...".
        plant: makes it.
        repair: undoes it.
        shows: the place that diverges first, where that is not the first of the layers that are to be changed.
    """

    cause: str
    plant: Edit
    repair: Edit
    shows: str = ""


def missing_root() -> Fault:
    """Scores are not divided by sqrt(D)."""

    def scale(power: float) -> Edit:
        def edit(_: nn.Module, blocks: Sequence[nn.Module]) -> None:
            for attention in _find(blocks, Attention):
                for parameter in attention.q_proj.parameters():
                    parameter.data *= attention.head_width**power

        return edit

    return Fault("attention scores are not divided by the root of the head's width", scale(0.5), scale(-0.5))


def extra_root() -> Fault:
    """Scores are divided by sqrt(D) in a family that has the factor in its initialisation instead."""

    def edit(divided: bool) -> Edit:
        def scale(_: nn.Module, blocks: Sequence[nn.Module]) -> None:
            for attention in _find(blocks, Attention):
                attention.scale = attention.head_width**-0.5 if divided else 1.0

        return scale

    return Fault("attention scores are divided by the root of the head's width", edit(True), edit(False))


def swapped_queries_and_keys() -> Fault:
    """Queries are made by the key projection and the reverse."""

    def edit(_: nn.Module, blocks: Sequence[nn.Module]) -> None:
        for attention in _find(blocks, Attention):
            attention.q_proj, attention.k_proj = attention.k_proj, attention.q_proj

    return Fault("queries and keys are swapped", edit, edit)


def norm_place() -> Fault:
    """Norms stand before the parts of a block where they must follow the sums, or the reverse."""

    def edit(_: nn.Module, blocks: Sequence[nn.Module]) -> None:
        for block in blocks:
            assert isinstance(block, Block | CrossBlock)
            block.post_norm = not block.post_norm

    return Fault("pre-norm and post-norm are confused", edit, edit)


def rotary_layout() -> Fault:
    """Neighbouring features are turned instead of the two halves: queries and keys were not permuted."""

    def edit(model: nn.Module, _: Sequence[nn.Module]) -> None:
        for rotary in _find([model], RotaryEmbedding):
            half_split = rotary.layout is RotaryLayout.HALF_SPLIT
            rotary.layout = RotaryLayout.INTERLEAVED if half_split else RotaryLayout.HALF_SPLIT

    cause = "the rotary layout is wrong: half-split and interleaved weights need a permutation"
    return Fault(cause, edit, edit, shows="output of blocks.0")


def head_mapping() -> Fault:
    """Head h is served by key-value head h modulo K instead of h // group."""

    def edit(back: bool) -> Edit:
        def reorder(_: nn.Module, blocks: Sequence[nn.Module]) -> None:
            for attention in _find(blocks, Attention):
                heads = attention.q_proj.out_features // attention.head_width
                order = torch.arange(heads).view(attention.group, -1).T.flatten()  # position -> original head
                order = order.argsort() if back else order
                features = torch.arange(heads * attention.head_width).view(heads, -1)[order].flatten()
                for parameter in attention.q_proj.parameters():
                    parameter.data = parameter.data[features]
                attention.out_proj.weight.data = attention.out_proj.weight.data[:, features]

        return reorder

    return Fault("heads are served by the wrong key-value heads (modulo instead of groups)", edit(False), edit(True))


def activation(wrong: Activation, right: Activation, cause: str) -> Fault:
    """Feed-forward layers use another activation.

    Args:
        wrong, right: names of the activations.
        cause: see `Fault`.
    """

    def use(name: Activation) -> Edit:
        def edit(_: nn.Module, blocks: Sequence[nn.Module]) -> None:
            layers: list[MLP | GatedMLP] = [*_find(blocks, MLP), *_find(blocks, GatedMLP)]
            for layer in layers:
                layer.activation = name

        return edit

    return Fault(cause, use(wrong), use(right))


def epsilon() -> Fault:
    """Norms add ten times what they should."""

    def scale(factor: float) -> Edit:
        def edit(_: nn.Module, blocks: Sequence[nn.Module]) -> None:
            norms: list[nn.LayerNorm | RMSNorm] = [*_find(blocks, nn.LayerNorm), *_find(blocks, RMSNorm)]
            for norm in norms:
                norm.eps *= factor

        return edit

    return Fault("the epsilon of the norms is ten times too large", scale(10.0), scale(0.1))


def untransposed(name: str, cause: str) -> Fault:
    """A square matrix of attention is loaded as it is where it must be transposed; unequal sides fail by themselves.

    Args:
        name: of the linear layer.
        cause: see `Fault`.
    """

    def edit(_: nn.Module, blocks: Sequence[nn.Module]) -> None:
        for attention in _find(blocks, Attention):
            linear = attention.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            linear.weight.data = linear.weight.data.T.contiguous()

    return Fault(cause, edit, edit)


def _find(roots: Sequence[nn.Module], kind: type[Layer]) -> Iterator[Layer]:
    """Every module of this kind."""
    return (module for root in roots for module in root.modules() if isinstance(module, kind))
