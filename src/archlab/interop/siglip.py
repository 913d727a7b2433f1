"""SigLIP in `transformers`: position tables without batch axis, a pooling head with fused queries, keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, SiglipModel
from transformers import SiglipConfig as TheirConfig

from archlab.errors import UserError
from archlab.interop.options import Options
from archlab.interop.parity import faults
from archlab.interop.parity.faults import Edit, Fault
from archlab.interop.towers import (
    IMAGE,
    TEXT,
    extend,
    flat_patches,
    read_image,
    read_text,
    tower_rules,
    tower_values,
    write,
)
from archlab.interop.transforms import Fused
from archlab.interop.weights import Rule, WeightMap
from archlab.models.siglip import SigLIPConfig

BLOCKS = (("image.blocks", "vision_model.encoder.layers"), ("text.blocks", "text_model.encoder.layers"))

_OPTIONS = Options(copied={}, handled=("text_config", "vision_config"), ignored=("initializer_factor",))
_ACTIVATION = {"hidden_act": "gelu_pytorch_tanh"}
_IMAGE = extend(IMAGE, fixed={**_ACTIVATION, "vision_use_head": True}, handled=(), ignored=())
_TEXT = extend(TEXT, fixed=_ACTIVATION, handled=("projection_size",), ignored=())


def config_from_hf(theirs: PretrainedConfig) -> SigLIPConfig:
    """See `interop.family.Interop`."""
    own: Any = theirs
    image, text = own.vision_config, own.text_config
    _OPTIONS.read(theirs)
    if text.projection_size != image.hidden_size:
        raise UserError(
            f"siglip option projection_size={text.projection_size}: must be the hidden_size of the image tower, "
            f"{image.hidden_size}"
        )
    return SigLIPConfig(image=read_image(_IMAGE, image), text=read_text(_TEXT, text))


def config_to_hf(config: SigLIPConfig) -> TheirConfig:
    """See `interop.family.Interop`."""
    projection = {"projection_size": config.image.transformer.width}
    return TheirConfig(
        vision_config=write(_IMAGE, config.image),
        text_config=write(_TEXT, config.text) | projection,
        **_OPTIONS.write(config),
    )


def weights(config: SigLIPConfig) -> WeightMap:
    """See `interop.family.Interop`."""
    fused = Fused((config.image.transformer.width,) * 3)
    head, attention = "vision_model.head", "image_head.pooling.attention"
    return WeightMap(
        rules=(
            Rule("image.positions", "vision_model.embeddings.position_embedding.weight"),
            Rule(
                "image.patch_embedding.projection.weight",
                "vision_model.embeddings.patch_embedding.weight",
                flat_patches(config.image),
            ),
            Rule("image.patch_embedding.projection.bias", "vision_model.embeddings.patch_embedding.bias"),
            *tower_rules("image", "vision_model", "{image_layer}"),
            Rule("image.norm.{part}", "vision_model.post_layernorm.{part}"),
            Rule("image_head.pooling.query", f"{head}.probe"),
            *(
                Rule(tuple(f"{attention}.{n}_proj.{part}" for n in "qkv"), f"{head}.attention.in_proj_{part}", fused)
                for part in ("weight", "bias")
            ),
            Rule(f"{attention}.out_proj.{{part}}", f"{head}.attention.out_proj.{{part}}"),
            Rule("image_head.norm.{part}", f"{head}.layernorm.{{part}}"),
            Rule("image_head.feed_forward.up_proj.{part}", f"{head}.mlp.fc1.{{part}}"),
            Rule("image_head.feed_forward.down_proj.{part}", f"{head}.mlp.fc2.{{part}}"),
            Rule("text.token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
            Rule("text.positions", "text_model.embeddings.position_embedding.weight"),
            *tower_rules("text", "text_model", "{text_layer}"),
            Rule("text.norm.{part}", "text_model.final_layer_norm.{part}"),
            Rule("text_head.{part}", "text_model.head.{part}"),
            Rule("log_scale", "logit_scale"),
            Rule("bias", "logit_bias"),
        ),
        values=tower_values(config.image, config.text),
        prefix="siglip.",
        ignored=(r"(text|vision)_model\.embeddings\.position_ids",),  # 0, 1, 2, ..., saved by old versions
    )


def reference(theirs: TheirConfig) -> PreTrainedModel:
    """See `interop.family.Interop`."""
    return SiglipModel(theirs)


def _turned(back: bool) -> Edit:
    """Queries take the place of keys, keys that of values, values that of queries; or the reverse."""

    def edit(model: nn.Module, _: Sequence[nn.Module]) -> None:
        attention: Any = model.get_submodule("image_head.pooling.attention")
        q, k, v = attention.q_proj, attention.k_proj, attention.v_proj
        attention.q_proj, attention.k_proj, attention.v_proj = (k, v, q) if back else (v, q, k)

    return edit


FAULTS = (
    Fault(
        "queries, keys and values of the pooling head are taken apart in the wrong order",
        _turned(False),
        _turned(True),
        shows="output of the model",
    ),
    faults.transposed_grid("image.positions"),
    faults.activation("gelu", "gelu-tanh", "the exact GELU stands in for the tanh form (gelu_pytorch_tanh)"),
    faults.swapped_queries_and_keys(),
    faults.epsilon(),
)
