"""V-JEPA 2 in `transformers`: a convolution over frames, rows and columns; mask tokens with the axes of a clip."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, VJEPA2Config, VJEPA2Model

from archlab.config import TransformerConfig
from archlab.interop.options import Options, require_squares
from archlab.interop.parity import faults
from archlab.interop.parity.faults import Fault
from archlab.interop.transforms import Reshaped
from archlab.interop.weights import Rule, WeightMap
from archlab.layers.rotary_3d import Rotary3D
from archlab.models.vjepa import VJEPAConfig

BLOCKS = (("encoder.blocks", "encoder.layer"), ("predictor.blocks", "predictor.layer"))

# Ours -> theirs, of both Transformers; the hidden width of the feed-forward layers is a ratio there.
_ENCODER = {"width": "hidden_size", "depth": "num_hidden_layers", "heads": "num_attention_heads"}
_PREDICTOR = {ours: f"pred_{theirs}" for ours, theirs in _ENCODER.items()}
_RATIOS = ("mlp_ratio", "pred_mlp_ratio")
_OPTIONS = Options(
    copied={
        "image_size": "crop_size",
        "patch_size": "patch_size",
        "tubelet": "tubelet_size",
        "channels": "in_chans",
        "mask_tokens": "pred_num_mask_tokens",
        "norm_eps": "layer_norm_eps",
    },
    fixed={"hidden_act": "gelu", "qkv_bias": True},
    handled=(*_ENCODER.values(), *_PREDICTOR.values(), *_RATIOS),
    ignored=(
        "frames_per_clip",  # of pretraining; a clip may have any number
        "image_size",  # crop_size again, in released files
        "attention_dropout",
        "attention_probs_dropout_prob",
        "drop_path_rate",
        "num_pooler_layers",  # of the classifier
        "pred_zero_init_mask_tokens",
    ),
)


def config_from_hf(theirs: PretrainedConfig) -> VJEPAConfig:
    """See `interop.family.Interop`."""
    options = _OPTIONS.read(theirs)
    require_squares(theirs, "patch_size")
    encoder, predictor = (
        _size(theirs, names, ratio) for names, ratio in zip((_ENCODER, _PREDICTOR), _RATIOS, strict=True)
    )
    return VJEPAConfig(transformer=encoder, predictor=predictor, **options)


def config_to_hf(config: VJEPAConfig) -> VJEPA2Config:
    """See `interop.family.Interop`."""
    options = _OPTIONS.write(config)
    for size, names, ratio in zip((config.transformer, config.predictor), (_ENCODER, _PREDICTOR), _RATIOS, strict=True):
        options |= {theirs: getattr(size, ours) for ours, theirs in names.items()}
        options[ratio] = _ratio(size.width, size.feed_forward)
    return VJEPA2Config(**options)


def weights(config: VJEPAConfig) -> WeightMap:
    """See `interop.family.Interop`."""
    kernel = (config.channels, config.tubelet, config.patch_size, config.patch_size)
    width, narrow = config.transformer.width, config.predictor.width
    conv, embeddings = "encoder.embeddings.patch_embeddings.proj", "predictor.embeddings"
    tokens = Reshaped((config.mask_tokens, narrow), (config.mask_tokens, 1, 1, narrow))
    return WeightMap(
        rules=(
            Rule(
                "encoder.patch_embedding.patches.projection.weight",
                f"{conv}.weight",
                Reshaped((width, math.prod(kernel)), (width, *kernel)),
            ),
            Rule("encoder.patch_embedding.patches.projection.bias", f"{conv}.bias"),
            *_block_rules("encoder", "{layer}"),
            Rule("encoder.norm.{part}", "encoder.layernorm.{part}"),
            Rule("predictor.embedding.{part}", f"{embeddings}.predictor_embeddings.{{part}}"),
            Rule("predictor.mask_tokens", f"{embeddings}.mask_tokens", tokens),
            *_block_rules("predictor", "{predictor_layer}"),
            Rule("predictor.norm.{part}", "predictor.layernorm.{part}"),
            Rule("predictor.head.{part}", "predictor.proj.{part}"),
        ),
        values={
            "layer": range(config.transformer.depth),
            "predictor_layer": range(config.predictor.depth),
            "part": ("weight", "bias"),
        },
        prefix="vjepa2.",
        ignored=(r"pooler\..*", r"classifier\.(weight|bias)"),
    )


def reference(theirs: VJEPA2Config) -> PreTrainedModel:
    """See `interop.family.Interop`."""
    return VJEPA2Model(theirs)


def _block_rules(stack: str, layer: str) -> tuple[Rule, ...]:
    ours, theirs = f"{stack}.blocks.{layer}", f"{stack}.layer.{layer}"
    return (
        Rule(f"{ours}.attention_norm.{{part}}", f"{theirs}.norm1.{{part}}"),
        Rule(f"{ours}.attention.q_proj.{{part}}", f"{theirs}.attention.query.{{part}}"),
        Rule(f"{ours}.attention.k_proj.{{part}}", f"{theirs}.attention.key.{{part}}"),
        Rule(f"{ours}.attention.v_proj.{{part}}", f"{theirs}.attention.value.{{part}}"),
        Rule(f"{ours}.attention.out_proj.{{part}}", f"{theirs}.attention.proj.{{part}}"),
        Rule(f"{ours}.feed_forward_norm.{{part}}", f"{theirs}.norm2.{{part}}"),
        Rule(f"{ours}.feed_forward.up_proj.{{part}}", f"{theirs}.mlp.fc1.{{part}}"),
        Rule(f"{ours}.feed_forward.down_proj.{{part}}", f"{theirs}.mlp.fc2.{{part}}"),
    )


def _size(theirs: PretrainedConfig, names: dict[str, str], ratio: str) -> TransformerConfig:
    size = {ours: getattr(theirs, name) for ours, name in names.items()}
    return TransformerConfig(feed_forward=int(size["width"] * getattr(theirs, ratio)), **size)


def _ratio(width: int, hidden: int) -> float:
    """The number that, times the width and rounded down, gives the hidden width."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def _other_tiling(model: nn.Module, _: Sequence[nn.Module]) -> None:
    for rotary in faults.find([model], Rotary3D):
        rotary.tiled = not rotary.tiled


def _first_mask_token(model: nn.Module, _: Sequence[nn.Module]) -> None:
    tokens: Any = model.get_parameter("predictor.mask_tokens")
    tokens.data[:2] = tokens.data[:2].flip(0)


FAULTS = (
    Fault(
        "rotary frequencies are repeated in pairs, as a rotation needs; the checkpoints were trained with tiled ones",
        _other_tiling,
        _other_tiling,
        shows="output of encoder.blocks.0",
    ),
    Fault(
        "wanted patches are marked by the first mask token instead of the second",
        _first_mask_token,
        _first_mask_token,
        shows="input of predictor.blocks.0",
    ),
    faults.swapped_queries_and_keys(),
    faults.missing_root(),
    faults.epsilon(),
)
