"""DINOv2 in `transformers`: two classes, without and with registers; the size of a SwiGLU follows from a ratio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    PretrainedConfig,
    PreTrainedModel,
)

from archlab.config import TransformerConfig
from archlab.errors import UserError
from archlab.interop.options import Options, require_squares
from archlab.interop.parity import faults
from archlab.interop.parity.faults import Fault
from archlab.interop.transforms import Fused, Reshaped
from archlab.interop.weights import Rule, WeightMap
from archlab.layers.block import SandwichBlock
from archlab.layers.feedforward import GatedMLP
from archlab.models.dinov2 import DINOv2Config

BLOCKS = (("blocks", "encoder.layer"),)

_SIZE = {"width": "hidden_size", "depth": "num_hidden_layers", "heads": "num_attention_heads"}
_OPTIONS = Options(
    copied={
        "image_size": "image_size",
        "patch_size": "patch_size",
        "channels": "num_channels",
        "gated": "use_swiglu_ffn",
        "norm_eps": "layer_norm_eps",
    },
    fixed={"hidden_act": "gelu", "qkv_bias": True},
    handled=(*_SIZE.values(), "mlp_ratio", "num_register_tokens"),
    ignored=(
        "attention_probs_dropout_prob",
        "hidden_dropout_prob",
        "drop_path_rate",
        "layerscale_value",  # at the start of training
        "use_mask_token",  # checked below
        # Of classes that give the states of several layers.
        "apply_layernorm",
        "reshape_hidden_states",
        "out_features",
        "out_indices",
        "stage_names",
    ),
)
_RATIOS = range(1, 33)


def config_from_hf(theirs: PretrainedConfig) -> DINOv2Config:
    """See `interop.family.Interop`."""
    options, given = _OPTIONS.read(theirs), theirs.to_dict()
    require_squares(theirs, "image_size", "patch_size")
    if not given.get("use_mask_token", True):
        raise UserError("dinov2 option use_mask_token=False: only True is implemented; use another checkpoint")
    size = {ours: given[name] for ours, name in _SIZE.items()}
    feed_forward = _feed_forward(size["width"], given["mlp_ratio"], gated=options["gated"])
    return DINOv2Config(
        transformer=TransformerConfig(feed_forward=feed_forward, **size),
        registers=given.get("num_register_tokens", 0),
        **options,
    )


def config_to_hf(config: DINOv2Config) -> PretrainedConfig:
    """See `interop.family.Interop`."""
    size = config.transformer
    for ratio in _RATIOS:
        if _feed_forward(size.width, ratio, gated=config.gated) == size.feed_forward:
            break
    else:
        raise UserError(f"feed_forward={size.feed_forward}: transformers has only what a whole mlp_ratio gives")
    options = _OPTIONS.write(config) | {theirs: getattr(size, ours) for ours, theirs in _SIZE.items()}
    if config.registers:
        return Dinov2WithRegistersConfig(mlp_ratio=ratio, num_register_tokens=config.registers, **options)
    return Dinov2Config(mlp_ratio=ratio, **options)


def weights(config: DINOv2Config) -> WeightMap:
    """See `interop.family.Interop`."""
    size, patch = config.transformer, (config.channels, config.patch_size, config.patch_size)
    table, kernel = (1 + config.patches, size.width), (size.width, config.channels * config.patch_size**2)
    ours, theirs = "blocks.{layer}", "encoder.layer.{layer}"
    conv = "embeddings.patch_embeddings.projection"
    feed_forward: tuple[Rule, ...] = (
        Rule(f"{ours}.feed_forward.up_proj.{{part}}", f"{theirs}.mlp.fc1.{{part}}"),
        Rule(f"{ours}.feed_forward.down_proj.{{part}}", f"{theirs}.mlp.fc2.{{part}}"),
    )
    if config.gated:
        halves = tuple(f"{ours}.feed_forward.{half}_proj.{{part}}" for half in ("gate", "up"))
        feed_forward = (
            Rule(halves, f"{theirs}.mlp.weights_in.{{part}}", Fused((size.feed_forward,) * 2)),
            Rule(f"{ours}.feed_forward.down_proj.{{part}}", f"{theirs}.mlp.weights_out.{{part}}"),
        )
    return WeightMap(
        rules=(
            Rule("class_token", "embeddings.cls_token"),
            Rule("mask_token", "embeddings.mask_token"),
            *((Rule("registers", "embeddings.register_tokens"),) if config.registers else ()),
            Rule("positions", "embeddings.position_embeddings", Reshaped(table, (1, *table))),
            Rule("patch_embedding.projection.weight", f"{conv}.weight", Reshaped(kernel, (size.width, *patch))),
            Rule("patch_embedding.projection.bias", f"{conv}.bias"),
            Rule(f"{ours}.attention_norm.{{part}}", f"{theirs}.norm1.{{part}}"),
            Rule(f"{ours}.attention.q_proj.{{part}}", f"{theirs}.attention.attention.query.{{part}}"),
            Rule(f"{ours}.attention.k_proj.{{part}}", f"{theirs}.attention.attention.key.{{part}}"),
            Rule(f"{ours}.attention.v_proj.{{part}}", f"{theirs}.attention.attention.value.{{part}}"),
            Rule(f"{ours}.attention.out_proj.{{part}}", f"{theirs}.attention.output.dense.{{part}}"),
            Rule(f"{ours}.after_attention.gain", f"{theirs}.layer_scale1.lambda1"),
            Rule(f"{ours}.feed_forward_norm.{{part}}", f"{theirs}.norm2.{{part}}"),
            *feed_forward,
            Rule(f"{ours}.after_feed_forward.gain", f"{theirs}.layer_scale2.lambda1"),
            Rule("norm.{part}", "layernorm.{part}"),
        ),
        values={"layer": range(size.depth), "part": ("weight", "bias")},
        prefix="dinov2_with_registers." if config.registers else "dinov2.",
        ignored=(r"classifier\.(weight|bias)",),
    )


def reference(theirs: Any) -> PreTrainedModel:
    """See `interop.family.Interop`."""
    if isinstance(theirs, Dinov2WithRegistersConfig):
        return Dinov2WithRegistersModel(theirs)
    return Dinov2Model(theirs)


def _feed_forward(width: int, ratio: int, *, gated: bool) -> int:
    """Hidden width: of a SwiGLU two thirds, so that three matrices weigh about as much as two, in multiples of 8."""
    return (width * ratio * 2 // 3 + 7) // 8 * 8 if gated else width * ratio


def _swap_scales(_: nn.Module, blocks: Sequence[nn.Module]) -> None:
    for block in faults.find(blocks, SandwichBlock):
        block.after_attention, block.after_feed_forward = block.after_feed_forward, block.after_attention


def _swap_halves(_: nn.Module, blocks: Sequence[nn.Module]) -> None:
    for layer in faults.find(blocks, GatedMLP):
        layer.gate_proj, layer.up_proj = layer.up_proj, layer.gate_proj


def _other_interpolation(model: Any, _: Sequence[nn.Module]) -> None:
    model.antialias = not model.antialias


FAULTS = (
    Fault("the layer scales of attention and feed-forward are swapped", _swap_scales, _swap_scales),
    Fault("the halves of the fused SwiGLU are swapped: the gate comes first", _swap_halves, _swap_halves),
    Fault(
        "positions are interpolated as the model with the other number of registers does it (antialiasing)",
        _other_interpolation,
        _other_interpolation,
        shows="input of blocks.0",
    ),
    faults.missing_root(),
    faults.epsilon(),
)
