"""The first Transformer in `transformers`: Marian with ReLU, scaled embeddings and no bias of the logits."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from transformers import MarianConfig as TheirConfig
from transformers import MarianMTModel, PretrainedConfig, PreTrainedModel

from archlab.errors import UserError
from archlab.interop.options import Options
from archlab.interop.parity import faults
from archlab.interop.parity.faults import Edit, Fault
from archlab.interop.weights import Rule, WeightMap
from archlab.models.encoder_decoder import EncoderDecoderConfig, EncoderDecoderTransformer

BLOCKS = (("encoder_blocks", "model.encoder.layers"), ("decoder_blocks", "model.decoder.layers"))


def _embedding_scale(power: float) -> Edit:
    def edit(model: nn.Module, _: Sequence[nn.Module]) -> None:
        assert isinstance(model, EncoderDecoderTransformer)
        model.token_embedding.scale = model.config.width**power

    return edit


FAULTS = (
    Fault(
        "embeddings are not multiplied by the root of the width",
        _embedding_scale(0.0),
        _embedding_scale(0.5),
        "input of encoder_blocks.0",
    ),
    faults.norm_place(),
    faults.missing_root(),
    faults.activation("gelu", "relu", "the exact GELU stands in for ReLU"),
)

_OPTIONS = Options(
    copied={
        "vocab_size": "vocab_size",
        "context": "max_position_embeddings",
        "width": "d_model",
        "depth": "encoder_layers",
        "decoder_depth": "decoder_layers",
        "heads": "encoder_attention_heads",
        "feed_forward": "encoder_ffn_dim",
    },
    fixed={
        "activation_function": "relu",
        "scale_embedding": True,
        "share_encoder_decoder_embeddings": True,
        "tie_word_embeddings": True,
        "is_encoder_decoder": True,
        "is_decoder": False,
    },
    obsolete={
        "normalize_before": False,
        "normalize_embedding": False,
        "add_final_layer_norm": False,
        "static_position_embeddings": True,
        "add_bias_logits": False,
    },
    handled=("decoder_attention_heads", "decoder_ffn_dim", "decoder_vocab_size"),
    ignored=(
        "dropout",
        "attention_dropout",
        "activation_dropout",
        "encoder_layerdrop",
        "decoder_layerdrop",
        "classifier_dropout",
        "classif_dropout",
        "init_std",
        # of generation
        "decoder_start_token_id",
        "forced_eos_token_id",
    ),
)
_EPS = 1e-5  # of Marian, fixed
# Marian gives the decoder its own; ours has one value for both stacks.
_TWICE = {
    "decoder_attention_heads": "encoder_attention_heads",
    "decoder_ffn_dim": "encoder_ffn_dim",
    "decoder_vocab_size": "vocab_size",
}


def config_from_hf(theirs: PretrainedConfig) -> EncoderDecoderConfig:
    """See `interop.family.Interop`."""
    options = _OPTIONS.read(theirs)
    given = theirs.to_dict()
    for name, other in _TWICE.items():
        if given[name] != given[other]:
            raise UserError(
                f"{theirs.model_type} option {name}={given[name]!r}: only {other}={given[other]!r} is implemented; "
                f"use another checkpoint"
            )
    return EncoderDecoderConfig(norm_eps=_EPS, **options)


def config_to_hf(config: EncoderDecoderConfig) -> TheirConfig:
    """See `interop.family.Interop`."""
    if config.pre_norm or config.norm_eps != _EPS:
        raise UserError(
            f"pre_norm={config.pre_norm}, norm_eps={config.norm_eps!r}: transformers (Marian) has only "
            f"pre_norm=False, norm_eps={_EPS}"
        )
    options = _OPTIONS.write(config)
    options |= {name: options[other] for name, other in _TWICE.items()}
    # The start of a target belongs to the tokenizer, but Marian must have one.
    return TheirConfig(dropout=0.0, decoder_start_token_id=0, forced_eos_token_id=None, **options)


def weights(config: EncoderDecoderConfig) -> WeightMap:
    """See `interop.family.Interop`."""
    rules = [Rule("token_embedding.weight", "model.shared.weight")]
    for stack, layer, parts in (
        ("encoder", "{layer}", {"attention": "self_attn"}),
        ("decoder", "{decoder_layer}", {"attention": "self_attn", "cross_attention": "encoder_attn"}),
    ):
        ours, theirs = f"{stack}_blocks.{layer}", f"model.{stack}.layers.{layer}"
        for part, other in parts.items():
            rules += [
                Rule(f"{ours}.{part}.{{projection}}.{{part}}", f"{theirs}.{other}.{{projection}}.{{part}}"),
                Rule(f"{ours}.{part}_norm.{{part}}", f"{theirs}.{other}_layer_norm.{{part}}"),
            ]
        rules += [
            Rule(f"{ours}.feed_forward.up_proj.{{part}}", f"{theirs}.fc1.{{part}}"),
            Rule(f"{ours}.feed_forward.down_proj.{{part}}", f"{theirs}.fc2.{{part}}"),
            Rule(f"{ours}.feed_forward_norm.{{part}}", f"{theirs}.final_layer_norm.{{part}}"),
        ]
    return WeightMap(
        rules=tuple(rules),
        values={
            "layer": range(config.depth),
            "decoder_layer": range(config.decoder_depth),
            "projection": ("q_proj", "k_proj", "v_proj", "out_proj"),
            "part": ("weight", "bias"),
        },
        prefix="model.",
        tied={
            "model.encoder.embed_tokens.weight": "model.shared.weight",
            "model.decoder.embed_tokens.weight": "model.shared.weight",
            "lm_head.weight": "model.shared.weight",
        },
        zeros=("final_logits_bias",),
        ignored=(r"(encoder|decoder)\.embed_positions\.weight",),  # sines and cosines
    )


def reference(theirs: TheirConfig) -> PreTrainedModel:
    """See `interop.family.Interop`."""
    return MarianMTModel(theirs)
