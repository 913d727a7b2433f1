"""Mixtral in `transformers`: files hold one matrix per expert (w1 gate, w3 up, w2 down); in memory they are stacked."""

from __future__ import annotations

from typing import Any

from transformers import MixtralConfig as TheirConfig
from transformers import MixtralForCausalLM, PretrainedConfig, PreTrainedModel

from archlab.interop.options import Options, require_derived_head_width
from archlab.interop.parity import expert_faults, faults
from archlab.interop.rotary import rope_to_hf, scaling_from_hf
from archlab.interop.transforms import Stacked
from archlab.interop.weights import Rule, WeightMap
from archlab.models.mixtral import MixtralConfig

BLOCKS = (("blocks", "model.layers"),)
FAULTS = (
    expert_faults.not_renormalised(),
    expert_faults.swapped_gate_and_up(),
    faults.rotary_layout(),
    faults.head_mapping(),
    faults.epsilon(),
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
        "experts": "num_local_experts",
        "chosen_experts": "num_experts_per_tok",
        "norm_eps": "rms_norm_eps",
    },
    fixed={"hidden_act": "silu", "sliding_window": None, "tie_word_embeddings": False},
    handled=("rope_parameters", "head_dim"),
    ignored=("attention_dropout", "output_router_logits", "router_aux_loss_coef", "router_jitter_noise"),
)


def config_from_hf(theirs: PretrainedConfig) -> MixtralConfig:
    """See `interop.family.Interop`."""
    options = _OPTIONS.read(theirs)
    require_derived_head_width(theirs)
    rope: dict[str, Any] = theirs.rope_parameters
    scaling_from_hf(rope, family="mixtral", context=theirs.max_position_embeddings, types=("default",))
    return MixtralConfig(rotary_base=float(rope["rope_theta"]), **options)


def config_to_hf(config: MixtralConfig) -> TheirConfig:
    """See `interop.family.Interop`."""
    return TheirConfig(rope_parameters=rope_to_hf(config.rotary_base, None), **_OPTIONS.write(config))


def weights(config: MixtralConfig) -> WeightMap:
    """See `interop.family.Interop`."""
    ours, theirs = "blocks.{layer}", "model.layers.{layer}"
    experts = [f"{theirs}.block_sparse_moe.experts.{expert}" for expert in range(config.experts)]
    return WeightMap(
        rules=(
            Rule("token_embedding.weight", "model.embed_tokens.weight"),
            Rule(f"{ours}.attention_norm.weight", f"{theirs}.input_layernorm.weight"),
            Rule(f"{ours}.attention.{{qkv}}.weight", f"{theirs}.self_attn.{{qkv}}.weight"),
            Rule(f"{ours}.attention.out_proj.weight", f"{theirs}.self_attn.o_proj.weight"),
            Rule(f"{ours}.feed_forward_norm.weight", f"{theirs}.post_attention_layernorm.weight"),
            Rule(f"{ours}.feed_forward.router.weight", f"{theirs}.block_sparse_moe.gate.weight"),
            *(
                Rule(
                    f"{ours}.feed_forward.{mine}.weight", tuple(f"{name}.{other}.weight" for name in experts), Stacked()
                )
                for mine, other in (("gate_proj", "w1"), ("down_proj", "w2"), ("up_proj", "w3"))
            ),
            Rule("norm.weight", "model.norm.weight"),
            Rule("head.weight", "lm_head.weight"),
        ),
        values={"layer": range(config.depth), "qkv": ("q_proj", "k_proj", "v_proj")},
        prefix="model.",
    )


def reference(theirs: TheirConfig) -> PreTrainedModel:
    """See `interop.family.Interop`."""
    model = MixtralForCausalLM(theirs)
    model.set_experts_implementation("eager")  # the plain one, as for attention
    return model
