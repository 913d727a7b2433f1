"""Floating-point operations: counted while code runs, and of training also predicted from sizes alone.

Both count the additions and multiplications of matrix products, attention included, and nothing else: norms,
activations, softmax, rotary turns, table look-ups and the optimiser are left out, as is usual. A masked pair of tokens
counts as if it were not masked, and the scores that fused attention computes a second time in its backward pass do not
count: fused and readable attention, which do the same work, count the same.

Shape legend: B samples, N visual tokens, Q query tokens, L target tokens, T tokens, W width, V vocabulary, E embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from archlab.compare.dimensions import Dimensions, dimensions_of, target_dimensions, trunk_dimensions
from archlab.config import EmbeddingArmConfig, RunConfig, TransformerConfig
from archlab.objectives.regularizers import DIRECTIONS

# A product z = x w has a backward pass of two products of the same cost, one for each factor that needs a gradient.
_TRAINED = 3
_TRAINED_AT_INPUT = 2  # the input is frozen features or a detached embedding, and needs no gradient
_FROZEN = 2  # the weights need no gradient, but what is before them does


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


def stack_flops(config: TransformerConfig | Dimensions, tokens: int) -> int:
    """One sample through a stack, T tokens that attend to each other.

    Of a `TransformerStack`, per token and layer 4 W^2 weights of attention and 3 W F of the gated feed-forward, each
    one multiplication and one addition; per pair of tokens W products for the scores and W for the mixture.
    """
    size = config if isinstance(config, Dimensions) else dimensions_of(config)
    return 2 * size.depth * (size.layer_weights * tokens + 2 * size.query * tokens**2)


def cross_stack_flops(config: TransformerConfig, tokens: int, memory: int) -> int:
    """One sample through a `CrossStack`: T tokens that attend to each other and to a memory.

    Beside what `stack_flops` counts, per layer 2 W^2 weights for each token and 2 W^2 for each token of the memory.
    """
    weights = 2 * config.width**2 * (tokens + memory) + 2 * config.width * tokens * memory
    return stack_flops(config, tokens) + 2 * config.depth * weights


def training_flops(run: RunConfig, sizes: Sizes, shape: BatchShape) -> dict[str, int]:
    """One training step of the run's arm, forward and backward, per part; the total is the sum of the values.

    The targets of a pretrained target encoder are taken to have as many of its own tokens as of the run's.
    """
    samples, answer, trunk = shape.samples, shape.target - 1, trunk_dimensions(run)  # the last token is only predicted
    projection = _TRAINED_AT_INPUT * _linear(shape.visual, sizes.feature_width, trunk.width)
    read = shape.visual + shape.query
    if run.arm == "token":
        table = _linear(answer, trunk.width, trunk.vocab_size or sizes.vocab_size)
        # The table of a pretrained language model is frozen: only the states before it need a gradient.
        parts = {"backbone": projection, "head": (_FROZEN if run.language.weights else _TRAINED) * table}
        if run.token.architecture == "encoder-decoder":
            writer = replace(run.trunk, depth=run.token.decoder_depth)
            parts["backbone"] += _TRAINED * stack_flops(trunk, read)
            parts["writer"] = _TRAINED * cross_stack_flops(writer, answer, read)
        else:
            parts["backbone"] += _TRAINED * stack_flops(trunk, read + answer)
        return {part: samples * flops for part, flops in parts.items()}
    if run.arm == "supervised":
        backbone = samples * (projection + _TRAINED * stack_flops(trunk, read))
        return {"backbone": backbone, "head": _TRAINED * samples * _linear(1, trunk.width, sizes.meanings)}
    return _embedding_flops(run, sizes, shape)


def _embedding_flops(run: RunConfig, sizes: Sizes, shape: BatchShape) -> dict[str, int]:
    """Of `vljepa`, and of `hybrid`, which only trains the decoder."""
    own, samples, answer = run.vljepa, shape.samples, shape.target - 1
    unfold = _TRAINED_AT_INPUT * _linear(1, own.embedding, own.decoder_prefix * own.decoder.width)
    decoder = stack_flops(own.decoder, own.decoder_prefix + answer)
    decoder += _linear(answer, own.decoder.width, sizes.vocab_size)
    frozen = run.arm == "hybrid"
    trained = 1 if frozen else _TRAINED
    parts = _predictor_flops(run, sizes, shape, trained, 1 if frozen else _TRAINED_AT_INPUT)
    parts["head"] = trained * _linear(1, trunk_dimensions(run).width, own.embedding)
    if not frozen:
        parts["target_encoder"] = _target_flops(own, shape.target)
    parts["decoder"] = unfold + _TRAINED * decoder
    total = {part: samples * flops for part, flops in parts.items()}
    return total if frozen else total | {"loss": _loss_flops(own, samples)}


def _target_flops(own: EmbeddingArmConfig, tokens: int) -> int:
    """The target encoder, for one text."""
    size, learns = target_dimensions(own), own.target_learning_rate_scale > 0
    stack, head = stack_flops(size, tokens), _linear(1, size.width, own.embedding)
    if not own.target_weights:
        return (_TRAINED if learns else 1) * (stack + head)
    if own.trains_target_head:
        return (_TRAINED if learns else 1) * stack + (_TRAINED if learns else _TRAINED_AT_INPUT) * head
    return (_TRAINED if learns else 1) * stack + (_FROZEN if learns else 1) * head


def _predictor_flops(run: RunConfig, sizes: Sizes, shape: BatchShape, trained: int, at_input: int) -> dict[str, int]:
    """Backbone and predictor, for one sample."""
    trunk, own = trunk_dimensions(run), run.vljepa.predictor
    projection = at_input * _linear(shape.visual, sizes.feature_width, trunk.width)
    if own.kind == "none":
        return {"backbone": projection}
    if own.kind == "joint":
        read = shape.visual + (shape.query if own.conditioned else 0)
        return {"backbone": projection + trained * stack_flops(trunk, read)}
    stack, text = replace(run.trunk, depth=own.depth), shape.query + shape.target
    parts = {
        "backbone": projection + trained * stack_flops(trunk, shape.query),
        "predictor": trained * cross_stack_flops(stack, shape.visual, shape.query),
    }
    if own.reconstruction and run.arm == "vljepa":  # a second pass, with hidden tokens and with the answer
        parts["backbone"] += projection + trained * stack_flops(trunk, text)
        back = _linear(shape.visual, trunk.width, sizes.feature_width)
        parts["predictor"] += trained * (cross_stack_flops(stack, shape.visual, text) + back)
    return parts


def _loss_flops(own: EmbeddingArmConfig, samples: int) -> int:
    """What prediction and target are trained by, on a whole batch."""
    trained = own.target_learning_rate_scale > 0 or (own.target_weights and own.trains_target_head)
    learning = 2 if trained else 1  # sides that a gradient reaches
    if own.objective == "info-nce":  # the similarities of every pair
        return (1 + learning) * _linear(samples, own.embedding, samples)
    if own.objective == "sigreg":
        return (2 + learning) * _linear(samples, own.embedding, DIRECTIONS)
    if own.objective == "vicreg":  # a covariance is a product of the embeddings with themselves
        return (2 + 2 * learning) * _linear(own.embedding, samples, own.embedding)
    return 0


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
