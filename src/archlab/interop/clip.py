"""CLIP in `transformers`: two towers under their own configurations, and two ways to find the end of a text."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from torch import nn
from transformers import CLIPConfig as TheirConfig
from transformers import CLIPModel, PretrainedConfig, PreTrainedModel

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
from archlab.interop.transforms import Reshaped
from archlab.interop.weights import Rule, WeightMap
from archlab.models.clip import CLIPConfig
from archlab.models.registry import find

BLOCKS = (("image.blocks", "vision_model.encoder.layers"), ("text.blocks", "text_model.encoder.layers"))

_OPTIONS = Options(
    copied={"embedding": "projection_dim"},
    handled=("text_config", "vision_config"),
    ignored=("logit_scale_init_value", "initializer_factor", "text_config_dict", "vision_config_dict"),
)
# The towers' own projection_dim is that of classes which hold one tower only.
_IMAGE = extend(IMAGE, fixed={}, handled=("hidden_act",), ignored=("projection_dim",))
_TEXT = extend(TEXT, fixed={}, handled=("hidden_act",), ignored=("projection_dim",))
_ACTIVATIONS: dict[str, Literal["gelu", "gelu-quick"]] = {"quick_gelu": "gelu-quick", "gelu": "gelu"}  # theirs -> ours
_HIGHEST = 2  # their eos_token_id of the first released configurations; it selects the highest id of a text instead


def config_from_hf(theirs: PretrainedConfig) -> CLIPConfig:
    """See `interop.family.Interop`."""
    own: Any = theirs
    image, text = own.vision_config, own.text_config
    if image.hidden_act != text.hidden_act or image.hidden_act not in _ACTIVATIONS:
        raise UserError(
            f"clip option hidden_act={image.hidden_act!r} and {text.hidden_act!r}: only one of "
            f"{', '.join(_ACTIVATIONS)} for both towers is implemented"
        )
    end = text.eos_token_id
    if not isinstance(end, int):
        raise UserError(f"clip option eos_token_id={end!r}: must be one id, at which a text is pooled")
    return CLIPConfig(
        image=read_image(_IMAGE, image),
        text=read_text(_TEXT, text),
        activation=_ACTIVATIONS[image.hidden_act],
        end_token=None if end == _HIGHEST else end,
        **_OPTIONS.read(theirs),
    )


def config_to_hf(config: CLIPConfig) -> TheirConfig:
    """See `interop.family.Interop`."""
    if config.end_token == _HIGHEST:
        raise UserError(
            f"end_token={_HIGHEST}: transformers takes this id for the highest of a text; use another vocabulary"
        )
    activation = {"hidden_act": next(name for name, ours in _ACTIVATIONS.items() if ours == config.activation)}
    end = {"eos_token_id": _HIGHEST if config.end_token is None else config.end_token}
    return TheirConfig(
        vision_config=write(_IMAGE, config.image) | activation,
        text_config=write(_TEXT, config.text) | activation | end,
        **_OPTIONS.write(config),
    )


def weights(config: CLIPConfig) -> WeightMap:
    """See `interop.family.Interop`."""
    width = config.image.transformer.width
    embeddings = "vision_model.embeddings"
    return WeightMap(
        rules=(
            Rule("image.class_token", f"{embeddings}.class_embedding", Reshaped((1, 1, width), (width,))),
            Rule("image.positions", f"{embeddings}.position_embedding.weight"),
            Rule(
                "image.patch_embedding.projection.weight",
                f"{embeddings}.patch_embedding.weight",
                flat_patches(config.image),
            ),
            Rule("image.input_norm.{part}", "vision_model.pre_layrnorm.{part}"),
            *tower_rules("image", "vision_model", "{image_layer}"),
            Rule("image.norm.{part}", "vision_model.post_layernorm.{part}"),
            Rule("image_head.weight", "visual_projection.weight"),
            Rule("text.token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
            Rule("text.positions", "text_model.embeddings.position_embedding.weight"),
            *tower_rules("text", "text_model", "{text_layer}"),
            Rule("text.norm.{part}", "text_model.final_layer_norm.{part}"),
            Rule("text_head.weight", "text_projection.weight"),
            Rule("log_scale", "logit_scale"),
        ),
        values=tower_values(config.image, config.text),
        prefix="clip.",
        ignored=(r"(text|vision)_model\.embeddings\.position_ids",),  # 0, 1, 2, ..., saved by old versions
    )


def reference(theirs: TheirConfig) -> PreTrainedModel:
    """See `interop.family.Interop`."""
    return CLIPModel(theirs)


def _swap_norms(model: nn.Module, _: Sequence[nn.Module]) -> None:
    tower: Any = model.get_submodule("image")
    tower.input_norm, tower.norm = tower.norm, tower.input_norm


def _pooled(at_highest: bool) -> Edit:
    def edit(model: Any, _: Sequence[nn.Module]) -> None:
        end = None if at_highest else find("clip").config().end_token
        model.config = dataclasses.replace(model.config, end_token=end)

    return edit


FAULTS = (
    faults.activation("gelu", "gelu-quick", "the exact GELU stands in for the quick one, x sigmoid(1.702 x)"),
    Fault(
        "texts are pooled at their highest id instead of the end token",
        _pooled(True),
        _pooled(False),
        shows="output of the model",
    ),
    Fault(
        "the norms before and after the image tower's blocks are swapped",
        _swap_norms,
        _swap_norms,
        shows="input of image.blocks.0",
    ),
    faults.missing_root(),
    faults.epsilon(),
)
