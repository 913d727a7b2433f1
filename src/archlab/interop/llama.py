"""LLaMA 3 in `transformers`: the same matrices under other names, queries and keys already permuted to half-split."""

from __future__ import annotations

from typing import Any

from transformers import LlamaConfig as TheirConfig
from transformers import LlamaForCausalLM, PretrainedConfig, PreTrainedModel

from archlab.interop.options import Options, require_derived_head_width
from archlab.interop.parity import faults
from archlab.interop.rotary import context_from_hf, context_to_hf, rope_to_hf, scaling_from_hf
from archlab.interop.weights import Rule, WeightMap
from archlab.models.llama import LlamaConfig

BLOCKS = (("blocks", "model.layers"),)
FAULTS = (
    faults.rotary_layout(),
    faults.head_mapping(),
    faults.epsilon(),
    faults.missing_root(),
)

_OPTIONS = Options(
    copied={
        "vocab_size": "vocab_size",
        "width": "hidden_size",
        "depth": "num_hidden_layers",
        "heads": "num_attention_heads",
        "key_value_heads": "num_key_value_heads",
        "feed_forward": "intermediate_size",
        "norm_eps": "rms_norm_eps",
        "tied": "tie_word_embeddings",
    },
    fixed={"hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
    handled=("rope_parameters", "max_position_embeddings", "head_dim"),
    ignored=("attention_dropout", "pretraining_tp"),
)


def config_from_hf(theirs: PretrainedConfig) -> LlamaConfig:
    """See `interop.family.Interop`."""
    options = _OPTIONS.read(theirs)
    require_derived_head_width(theirs)
    rope: dict[str, Any] = theirs.rope_parameters
    scaling = scaling_from_hf(rope, family="llama", context=theirs.max_position_embeddings)
    context = context_from_hf(scaling, theirs.max_position_embeddings)
    return LlamaConfig(context=context, rotary_base=float(rope["rope_theta"]), rotary_scaling=scaling, **options)


def config_to_hf(config: LlamaConfig) -> TheirConfig:
    """See `interop.family.Interop`."""
    return TheirConfig(
        rope_parameters=rope_to_hf(config.rotary_base, config.rotary_scaling),
        max_position_embeddings=context_to_hf(config.rotary_scaling, config.context),
        head_dim=config.width // config.heads,
        **_OPTIONS.write(config),
    )


def weights(config: LlamaConfig) -> WeightMap:
    """See `interop.family.Interop`."""
    ours, theirs = "blocks.{layer}", "model.layers.{layer}"
    return WeightMap(
        rules=(
            Rule("token_embedding.weight", "model.embed_tokens.weight"),
            Rule(f"{ours}.attention_norm.weight", f"{theirs}.input_layernorm.weight"),
            Rule(f"{ours}.attention.{{qkv}}.weight", f"{theirs}.self_attn.{{qkv}}.weight"),
            Rule(f"{ours}.attention.out_proj.weight", f"{theirs}.self_attn.o_proj.weight"),
            Rule(f"{ours}.feed_forward_norm.weight", f"{theirs}.post_attention_layernorm.weight"),
            Rule(f"{ours}.feed_forward.{{mlp}}.weight", f"{theirs}.mlp.{{mlp}}.weight"),
            Rule("norm.weight", "model.norm.weight"),
            *(() if config.tied else (Rule("head.weight", "lm_head.weight"),)),
        ),
        values={
            "layer": range(config.depth),
            "qkv": ("q_proj", "k_proj", "v_proj"),
            "mlp": ("gate_proj", "up_proj", "down_proj"),
        },
        prefix="model.",
        tied={"lm_head.weight": "model.embed_tokens.weight"} if config.tied else {},
        ignored=(r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),  # a buffer, saved by old versions
    )


def reference(theirs: TheirConfig) -> PreTrainedModel:
    """See `interop.family.Interop`."""
    return LlamaForCausalLM(theirs)
