"""LLaMA 3 in `transformers`: the same matrices under other names, queries and keys already permuted to half-split."""

from __future__ import annotations

from typing import Any

from transformers import LlamaConfig as TheirConfig
from transformers import LlamaForCausalLM, PretrainedConfig, PreTrainedModel

from archlab.errors import UserError
from archlab.interop.options import Options
from archlab.interop.parity import faults
from archlab.interop.weights import Rule, WeightMap
from archlab.layers.rotary_scaling import Llama3Scaling
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
        "context": "max_position_embeddings",
        "width": "hidden_size",
        "depth": "num_hidden_layers",
        "heads": "num_attention_heads",
        "key_value_heads": "num_key_value_heads",
        "feed_forward": "intermediate_size",
        "norm_eps": "rms_norm_eps",
        "tied": "tie_word_embeddings",
    },
    fixed={"hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
    handled=("rope_parameters", "head_dim"),
    ignored=("attention_dropout", "pretraining_tp"),
)
# Ours -> theirs.
_SCALING = {
    "factor": "factor",
    "low_frequency": "low_freq_factor",
    "high_frequency": "high_freq_factor",
    "original_context": "original_max_position_embeddings",
}


def config_from_hf(theirs: PretrainedConfig) -> LlamaConfig:
    """See `interop.family.Interop`."""
    options = _OPTIONS.read(theirs)
    if theirs.head_dim * theirs.num_attention_heads != theirs.hidden_size:
        raise UserError(
            f"llama option head_dim={theirs.head_dim}: only hidden_size / num_attention_heads is implemented; "
            f"use another checkpoint"
        )
    rope: dict[str, Any] = theirs.rope_parameters
    return LlamaConfig(rotary_base=float(rope["rope_theta"]), rotary_scaling=_scaling_from_hf(rope), **options)


def config_to_hf(config: LlamaConfig) -> TheirConfig:
    """See `interop.family.Interop`."""
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rotary_base}
    if config.rotary_scaling is not None:
        rope["rope_type"] = "llama3"
        rope |= {theirs: getattr(config.rotary_scaling, ours) for ours, theirs in _SCALING.items()}
    return TheirConfig(rope_parameters=rope, head_dim=config.width // config.heads, **_OPTIONS.write(config))


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


def _scaling_from_hf(rope: dict[str, Any]) -> Llama3Scaling | None:
    kind = rope.get("rope_type", "default")
    if kind not in ("default", "llama3"):
        raise UserError(f"llama option rope_type={kind!r}: only 'default' and 'llama3' are implemented")
    expected = {"rope_type", "rope_theta", *(_SCALING.values() if kind == "llama3" else ())}
    for name in rope.keys() - expected:
        raise UserError(f"llama option {name}={rope[name]!r} of rope_type={kind!r}: is not implemented")
    if kind == "default":
        return None
    return Llama3Scaling(**{ours: rope[theirs] for ours, theirs in _SCALING.items()})
