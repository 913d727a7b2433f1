"""The Vision Transformer in `transformers`: the linear map of patches is a convolution, positions have a batch axis."""

from __future__ import annotations

from transformers import PretrainedConfig, PreTrainedModel, ViTModel
from transformers import ViTConfig as TheirConfig

from archlab.config import TransformerConfig
from archlab.errors import UserError
from archlab.interop.options import Options
from archlab.interop.parity import faults
from archlab.interop.transforms import Reshaped
from archlab.interop.weights import Rule, WeightMap
from archlab.models.vit import ViTConfig

BLOCKS = (("blocks", "layers"),)
FAULTS = (
    faults.swapped_queries_and_keys(),
    faults.missing_root(),
    faults.activation("gelu-tanh", "gelu", "the tanh form of GELU stands in for the exact one"),
    faults.epsilon(),
)

_SIZE = Options(
    copied={
        "width": "hidden_size",
        "depth": "num_hidden_layers",
        "heads": "num_attention_heads",
        "feed_forward": "intermediate_size",
    }
)
_OPTIONS = Options(
    copied={
        "image_size": "image_size",
        "patch_size": "patch_size",
        "channels": "num_channels",
        "norm_eps": "layer_norm_eps",
    },
    fixed={"hidden_act": "gelu", "qkv_bias": True},
    handled=tuple(_SIZE.copied.values()),
    ignored=(
        "attention_probs_dropout_prob",
        "hidden_dropout_prob",
        "encoder_stride",  # of the decoder for masked images
        "pooler_act",
        "pooler_output_size",
    ),
)


def config_from_hf(theirs: PretrainedConfig) -> ViTConfig:
    """See `interop.family.Interop`."""
    options = _OPTIONS.read(theirs)
    for name in ("image_size", "patch_size"):
        if not isinstance(options[name], int):
            raise UserError(f"vit option {name}={options[name]!r}: only squares, given by one number, are implemented")
    given = theirs.to_dict()
    size = TransformerConfig(**{ours: given[name] for ours, name in _SIZE.copied.items()})
    return ViTConfig(transformer=size, **options)


def config_to_hf(config: ViTConfig) -> TheirConfig:
    """See `interop.family.Interop`."""
    if not config.class_token or config.positions != "learned" or config.stem != "linear":
        raise UserError(
            f"class_token={config.class_token}, positions={config.positions!r}, stem={config.stem!r}: transformers has "
            f"only class_token=True, positions='learned', stem='linear'"
        )
    size = {name: getattr(config.transformer, ours) for ours, name in _SIZE.copied.items()}
    return TheirConfig(**size, **_OPTIONS.write(config))


def weights(config: ViTConfig) -> WeightMap:
    """See `interop.family.Interop`."""
    width, patch = config.transformer.width, (config.channels, config.patch_size, config.patch_size)
    table = (1 + config.patches, width)
    pixels = config.channels * config.patch_size**2
    ours, theirs = "blocks.{layer}", "encoder.layer.{layer}"
    conv = "embeddings.patch_embeddings.projection"
    return WeightMap(
        rules=(
            Rule("class_token", "embeddings.cls_token"),
            Rule("positions", "embeddings.position_embeddings", Reshaped(table, (1, *table))),
            Rule("patch_embedding.projection.weight", f"{conv}.weight", Reshaped((width, pixels), (width, *patch))),
            Rule("patch_embedding.projection.bias", f"{conv}.bias"),
            Rule(f"{ours}.attention_norm.{{part}}", f"{theirs}.layernorm_before.{{part}}"),
            Rule(f"{ours}.attention.q_proj.{{part}}", f"{theirs}.attention.attention.query.{{part}}"),
            Rule(f"{ours}.attention.k_proj.{{part}}", f"{theirs}.attention.attention.key.{{part}}"),
            Rule(f"{ours}.attention.v_proj.{{part}}", f"{theirs}.attention.attention.value.{{part}}"),
            Rule(f"{ours}.attention.out_proj.{{part}}", f"{theirs}.attention.output.dense.{{part}}"),
            Rule(f"{ours}.feed_forward_norm.{{part}}", f"{theirs}.layernorm_after.{{part}}"),
            Rule(f"{ours}.feed_forward.up_proj.{{part}}", f"{theirs}.intermediate.dense.{{part}}"),
            Rule(f"{ours}.feed_forward.down_proj.{{part}}", f"{theirs}.output.dense.{{part}}"),
            Rule("norm.{part}", "layernorm.{part}"),
        ),
        values={"layer": range(config.transformer.depth), "part": ("weight", "bias")},
        prefix="vit.",
        ignored=(r"pooler\.dense\.(weight|bias)", r"classifier\.(weight|bias)"),  # heads, which our encoder has not
    )


def reference(theirs: TheirConfig) -> PreTrainedModel:
    """See `interop.family.Interop`."""
    return ViTModel(theirs, add_pooling_layer=False)
