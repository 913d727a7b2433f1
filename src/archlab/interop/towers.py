"""What CLIP and SigLIP share in `transformers`: the options of their towers and the names of the layers."""

from __future__ import annotations

import dataclasses
from typing import Any

from transformers import PretrainedConfig

from archlab.config import TransformerConfig
from archlab.interop.options import Options, require_squares
from archlab.interop.transforms import Reshaped
from archlab.interop.weights import Rule
from archlab.models.towers import ImageTowerConfig, TextTowerConfig

SIZE = {
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "feed_forward": "intermediate_size",
}
"""Ours -> theirs, of a Transformer's size."""
IGNORED = ("attention_dropout", "dropout", "initializer_factor", "tie_word_embeddings")
"""Options of a tower that change nothing in a model without dropout and output layer."""
TEXT = Options(
    copied={"vocab_size": "vocab_size", "context": "max_position_embeddings", "norm_eps": "layer_norm_eps"},
    handled=tuple(SIZE.values()),
    ignored=IGNORED,
)
IMAGE = Options(
    copied={
        "image_size": "image_size",
        "patch_size": "patch_size",
        "channels": "num_channels",
        "norm_eps": "layer_norm_eps",
    },
    handled=tuple(SIZE.values()),
    ignored=IGNORED,
)


def extend(options: Options, *, fixed: dict[str, Any], handled: tuple[str, ...], ignored: tuple[str, ...]) -> Options:
    """A family's own options beside the shared ones."""
    return dataclasses.replace(
        options,
        fixed={**options.fixed, **fixed},
        handled=options.handled + handled,
        ignored=options.ignored + ignored,
    )


def read_text(options: Options, theirs: PretrainedConfig) -> TextTowerConfig:
    """Our text tower of theirs.

    Raises:
        UserError: see `Options.read`.
    """
    return TextTowerConfig(transformer=_size(theirs), **options.read(theirs))


def read_image(options: Options, theirs: PretrainedConfig) -> ImageTowerConfig:
    """Our image tower of theirs.

    Raises:
        UserError: see `Options.read`; or images or patches are no squares.
    """
    require_squares(theirs, "image_size", "patch_size")
    return ImageTowerConfig(transformer=_size(theirs), **options.read(theirs))


def write(options: Options, tower: TextTowerConfig | ImageTowerConfig) -> dict[str, Any]:
    """Theirs -> value, of a tower's options; see `Options.write`."""
    return options.write(tower) | {theirs: getattr(tower.transformer, ours) for ours, theirs in SIZE.items()}


def tower_rules(ours: str, theirs: str, layer: str) -> tuple[Rule, ...]:
    """Rules of the blocks of the tower called `ours` here and `theirs` there.

    Args:
        layer: placeholder of the number of the block, as `{layer}`; `{part}` stands for weight and bias.
    """
    own, other = f"{ours}.blocks.{layer}", f"{theirs}.encoder.layers.{layer}"
    return (
        Rule(f"{own}.attention_norm.{{part}}", f"{other}.layer_norm1.{{part}}"),
        Rule(f"{own}.attention.{{projection}}.{{part}}", f"{other}.self_attn.{{projection}}.{{part}}"),
        Rule(f"{own}.feed_forward_norm.{{part}}", f"{other}.layer_norm2.{{part}}"),
        Rule(f"{own}.feed_forward.up_proj.{{part}}", f"{other}.mlp.fc1.{{part}}"),
        Rule(f"{own}.feed_forward.down_proj.{{part}}", f"{other}.mlp.fc2.{{part}}"),
    )


def tower_values(image: ImageTowerConfig, text: TextTowerConfig) -> dict[str, Any]:
    """What the placeholders of `tower_rules` stand for."""
    return {
        "image_layer": range(image.transformer.depth),
        "text_layer": range(text.transformer.depth),
        "projection": ("q_proj", "k_proj", "v_proj", "out_proj"),
        "part": ("weight", "bias"),
    }


def flat_patches(image: ImageTowerConfig) -> Reshaped:
    """The kernel of a convolution as the matrix that maps flattened patches."""
    width, patch = image.transformer.width, (image.channels, image.patch_size, image.patch_size)
    return Reshaped((width, image.channels * image.patch_size**2), (width, *patch))


def _size(theirs: PretrainedConfig) -> TransformerConfig:
    return TransformerConfig(**{ours: getattr(theirs, name) for ours, name in SIZE.items()})
