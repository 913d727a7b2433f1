"""Floating-point operations: counted while code runs, and of training also predicted from sizes alone.

Both count the additions and multiplications of matrix products, attention included, and nothing else: norms,
activations, softmax, rotary turns, table look-ups and the optimiser are left out, as is usual. A masked pair of tokens
counts as if it were not masked, and the scores that fused attention computes a second time in its backward pass do not
count: fused and readable attention, which do the same work, count the same.

Shape legend: B samples, N visual tokens, Q query tokens, L target tokens, T tokens, W width, V vocabulary, E embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from archlab.config import RunConfig, TransformerConfig

# A product z = x w has a backward pass of two products of the same cost, one for each factor that needs a gradient.
_TRAINED = 3
_TRAINED_AT_INPUT = 2  # the input is frozen features or a detached embedding, and needs no gradient


@dataclass(frozen=True)
class Sizes:
    """What the cost of an arm depends on beside its configuration.

    Attributes:
        feature_width: features per visual token of the frozen encoder.
        vocab_size: V.
        meanings: classes of the supervised arm.
    """

    feature_width: int
    vocab_size: int
    meanings: int


@dataclass(frozen=True)
class BatchShape:
    """Lengths of a batch, padding included: B samples, N visual, Q query and L target tokens."""

    samples: int
    visual: int
    query: int
    target: int


def counted_flops(function: Callable[[], object]) -> int:
    """Operations that `function` executes in this thread, backward passes included."""
    # PyTorch's counter does not know attention on the processor (it would count zero), and counts the recomputation in
    # the backward pass of the fused kernels.
    aten = torch.ops.aten
    forward = {aten._scaled_dot_product_flash_attention_for_cpu: _attention_forward}
    backward = dict.fromkeys(
        (
            aten._scaled_dot_product_flash_attention_for_cpu_backward,
            aten._scaled_dot_product_flash_attention_backward,
            aten._scaled_dot_product_efficient_attention_backward,
            aten._scaled_dot_product_cudnn_attention_backward,
        ),
        _attention_backward,
    )
    with FlopCounterMode(display=False, custom_mapping=forward | backward) as counter:
        function()
    return counter.get_total_flops()


def stack_flops(config: TransformerConfig, tokens: int) -> int:
    """One sample through a `TransformerStack`, T tokens that attend to each other.

    Per token and layer 4 W^2 weights of attention and 3 W F of the gated feed-forward, each one multiplication and one
    addition; per pair of tokens W products for the scores and W for the mixture.
    """
    weights = 4 * config.width**2 + 3 * config.width * config.feed_forward
    return 2 * config.depth * (weights * tokens + 2 * config.width * tokens**2)


def training_flops(run: RunConfig, sizes: Sizes, shape: BatchShape) -> dict[str, int]:
    """One training step of the run's arm, forward and backward, per part; the total is the sum of the values."""
    samples, answer, trunk = shape.samples, shape.target - 1, run.trunk  # the last token is only predicted
    projection = _TRAINED_AT_INPUT * _linear(shape.visual, sizes.feature_width, trunk.width)
    if run.arm == "token":
        parts = {
            "backbone": projection + _TRAINED * stack_flops(trunk, shape.visual + shape.query + answer),
            "head": _TRAINED * _linear(answer, trunk.width, sizes.vocab_size),
        }
        return {part: samples * flops for part, flops in parts.items()}

    backbone = samples * (projection + _TRAINED * stack_flops(trunk, shape.visual + shape.query))
    if run.arm == "supervised":
        return {"backbone": backbone, "head": _TRAINED * samples * _linear(1, trunk.width, sizes.meanings)}
    own = run.vljepa
    target = stack_flops(own.target, shape.target) + _linear(1, own.target.width, own.embedding)
    unfold = _TRAINED_AT_INPUT * _linear(1, own.embedding, own.decoder_prefix * own.decoder.width)
    decoder = stack_flops(own.decoder, own.decoder_prefix + answer)
    decoder += _linear(answer, own.decoder.width, sizes.vocab_size)
    return {
        "backbone": backbone,
        "head": _TRAINED * samples * _linear(1, trunk.width, own.embedding),
        "target_encoder": _TRAINED * samples * target,
        "decoder": samples * (unfold + _TRAINED * decoder),
        "loss": _TRAINED * _linear(samples, own.embedding, samples),  # the similarities of every pair
    }


def equal_steps(first: Sequence[int], second: Sequence[int]) -> tuple[int, int]:
    """Steps of two runs that cost the same, to within half a step of the dearer one.

    The cheaper run keeps all its steps; the dearer one stops at the step at which it has cost nearest to as much.

    Args:
        first, second: operations of every step of each run.
    """
    if sum(first) > sum(second):
        return equal_steps(second, first)[::-1]
    goal, spent = sum(first), 0
    for steps, flops in enumerate(second):
        if spent + flops / 2 > goal:
            return len(first), max(1, steps)
        spent += flops
    return len(first), len(second)


def _linear(tokens: int, inputs: int, outputs: int) -> int:
    return 2 * tokens * inputs * outputs


def _attention_forward(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(_gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return 2 * sdpa_flop_count(query, key, value)
