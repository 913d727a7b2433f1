"""DeepSeek-V3 in `transformers`: the same matrices under other names, one per expert in files, stacked in memory.

Files also hold the module that predicts one token more, as a layer after the last; `prediction_weights` reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from transformers import DeepseekV3Config as TheirConfig
from transformers import DeepseekV3ForCausalLM, PretrainedConfig, PreTrainedModel

from archlab.errors import UserError
from archlab.interop.options import Options
from archlab.interop.parity import expert_faults, faults
from archlab.interop.parity.faults import Edit, Fault
from archlab.interop.rotary import rope_to_hf, scaling_from_hf
from archlab.interop.transforms import Stacked
from archlab.interop.weights import Rule, WeightMap
from archlab.layers.mla import LatentAttention
from archlab.layers.moe import Router
from archlab.layers.rotary_scaling import YarnScaling
from archlab.models.deepseek import Deepseek, DeepseekConfig


def _score_scale(cause: str, factor: Callable[[DeepseekConfig], float]) -> Fault:
    """Scores are multiplied by `factor` times what they should be."""

    def edit(power: int) -> Edit:
        def rescale(model: nn.Module, blocks: Sequence[nn.Module]) -> None:
            assert isinstance(model, Deepseek)
            for attention in faults.find(blocks, LatentAttention):
                attention.scale *= factor(model.config) ** power

        return rescale

    return Fault(cause, edit(1), edit(-1))


def _missing_routed_scale() -> Fault:
    def edit(wrong: bool) -> Edit:
        def rescale(model: nn.Module, blocks: Sequence[nn.Module]) -> None:
            assert isinstance(model, Deepseek)
            for router in faults.find(blocks, Router):
                router.scale = 1.0 if wrong else model.config.routed_scale

        return rescale

    return Fault("the routed scaling factor is missing", edit(True), edit(False))


BLOCKS = (("blocks", "model.layers"),)
FAULTS = (
    expert_faults.weighing_correction(),
    expert_faults.best_instead_of_two(),
    expert_faults.not_renormalised(),
    _missing_routed_scale(),
    expert_faults.swapped_gate_and_up(),
    faults.rotary_layout(),
    _score_scale(
        "the root that divides attention scores leaves the rotary part out",
        lambda config: ((config.head_width + config.rotary_width) / config.head_width) ** 0.5,
    ),
    _score_scale(
        "the magnitude of YaRN (mscale_all_dim) is missing from attention scores",
        lambda config: 1 / config.rotary_scaling.score_scale if config.rotary_scaling else 1.0,
    ),
    faults.epsilon(),
)

_OPTIONS = Options(
    copied={
        "vocab_size": "vocab_size",
        "context": "max_position_embeddings",
        "width": "hidden_size",
        "depth": "num_hidden_layers",
        "heads": "num_attention_heads",
        "key_value_latent": "kv_lora_rank",
        "head_width": "qk_nope_head_dim",
        "rotary_width": "qk_rope_head_dim",
        "value_width": "v_head_dim",
        "feed_forward": "intermediate_size",
        "dense_layers": "first_k_dense_replace",
        "expert_feed_forward": "moe_intermediate_size",
        "experts": "n_routed_experts",
        "chosen_experts": "num_experts_per_tok",
        "shared_experts": "n_shared_experts",
        "groups": "n_group",
        "chosen_groups": "topk_group",
        "renormalise": "norm_topk_prob",
        "routed_scale": "routed_scaling_factor",
        "norm_eps": "rms_norm_eps",
        "interleaved": "rope_interleave",
    },
    # The last four are in files of the original code, for which these are the only values that V3 was trained with.
    fixed={
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": False,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "moe_layer_freq": 1,
        "ep_size": 1,
    },
    handled=("rope_parameters", "num_key_value_heads", "q_lora_rank", "head_dim", "qk_head_dim"),
    ignored=(
        "attention_dropout",
        "output_router_logits",
        "pretraining_tp",
        "num_nextn_predict_layers",
        "aux_loss_alpha",
        "seq_aux",
        "auto_map",
    ),
)


def config_from_hf(theirs: PretrainedConfig) -> DeepseekConfig:
    """See `interop.family.Interop`."""
    options = _OPTIONS.read(theirs)
    if theirs.num_key_value_heads != theirs.num_attention_heads:
        raise UserError(
            f"deepseek_v3 option num_key_value_heads={theirs.num_key_value_heads}: only num_attention_heads, "
            f"{theirs.num_attention_heads}, is implemented; use another checkpoint"
        )
    rope: dict[str, Any] = theirs.rope_parameters
    context = theirs.max_position_embeddings
    scaling = scaling_from_hf(rope, family="deepseek_v3", context=context, types=("default", "yarn"))
    assert scaling is None or isinstance(scaling, YarnScaling)
    return DeepseekConfig(
        query_latent=theirs.q_lora_rank or 0, rotary_base=float(rope["rope_theta"]), rotary_scaling=scaling, **options
    )


def config_to_hf(config: DeepseekConfig) -> TheirConfig:
    """See `interop.family.Interop`. The extra prediction is not part of an exported checkpoint."""
    return TheirConfig(
        q_lora_rank=config.query_latent or None,
        num_key_value_heads=config.heads,
        rope_parameters=rope_to_hf(config.rotary_base, config.rotary_scaling),
        num_mtp_layers=0,
        **_OPTIONS.write(config),
    )


def weights(config: DeepseekConfig) -> WeightMap:
    """See `interop.family.Interop`."""
    dense = min(config.dense_layers, config.depth)
    return WeightMap(
        rules=(
            Rule("token_embedding.weight", "model.embed_tokens.weight"),
            *_attention_rules(config, "blocks.{layer}", "model.layers.{layer}"),
            *_dense_rules("blocks.{dense}.feed_forward", "model.layers.{dense}.mlp"),
            *_expert_rules(config, "blocks.{mixture}", "model.layers.{mixture}"),
            Rule("norm.weight", "model.norm.weight"),
            Rule("head.weight", "lm_head.weight"),
        ),
        values={
            "layer": range(config.depth),
            "dense": range(dense),
            "mixture": range(dense, config.depth),
            "mlp": _MLP,
        },
        prefix="model.",
        ignored=(
            rf"layers\.{config.depth}\..*",  # the module that predicts one token more
            r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq",  # a buffer in files of Moonlight
        ),
    )


def prediction_weights(config: DeepseekConfig) -> WeightMap:
    """The map of `models.multi_token.ExtraPrediction`; the tables that it shares with the model are left out."""
    theirs = f"model.layers.{config.depth}"
    return WeightMap(
        rules=(
            Rule("embedding_norm.weight", f"{theirs}.enorm.weight"),
            Rule("state_norm.weight", f"{theirs}.hnorm.weight"),
            Rule("projection.weight", f"{theirs}.eh_proj.weight"),
            *_attention_rules(config, "block", theirs),
            *_expert_rules(config, "block", theirs),
            Rule("norm.weight", f"{theirs}.shared_head.norm.weight"),
        ),
        values={"mlp": _MLP},
        prefix="model.",
        ignored=(
            rf"layers\.{config.depth}\.(embed_tokens|shared_head\.head)\.weight",
            rf"layers\.(?!{config.depth}\.).*",
            r"(embed_tokens|norm|lm_head)\.weight",
        ),
    )


def reference(theirs: TheirConfig) -> PreTrainedModel:
    """See `interop.family.Interop`. Corrections are drawn too: at zero they would change nothing."""
    model = DeepseekV3ForCausalLM(theirs)
    model.set_experts_implementation("eager")  # the plain one, as for attention
    generator = torch.Generator().manual_seed(0)
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.copy_(0.3 * torch.randn(buffer.shape, generator=generator))
    return model


_MLP = ("gate_proj", "up_proj", "down_proj")


def _attention_rules(config: DeepseekConfig, ours: str, theirs: str) -> list[Rule]:
    """Norms and attention of a block."""
    names = {"kv_down": "kv_a_proj_with_mqa", "kv_norm": "kv_a_layernorm", "kv_proj": "kv_b_proj", "out_proj": "o_proj"}
    if config.query_latent:
        names |= {"q_down": "q_a_proj", "q_norm": "q_a_layernorm", "q_proj": "q_b_proj"}
    else:
        names |= {"q_proj": "q_proj"}
    return [
        Rule(f"{ours}.attention_norm.weight", f"{theirs}.input_layernorm.weight"),
        Rule(f"{ours}.feed_forward_norm.weight", f"{theirs}.post_attention_layernorm.weight"),
        *(
            Rule(f"{ours}.attention.{mine}.weight", f"{theirs}.self_attn.{other}.weight")
            for mine, other in names.items()
        ),
    ]


def _dense_rules(ours: str, theirs: str) -> list[Rule]:
    """A gated feed-forward layer."""
    return [Rule(f"{ours}.{{mlp}}.weight", f"{theirs}.{{mlp}}.weight")]


def _expert_rules(config: DeepseekConfig, ours: str, theirs: str) -> list[Rule]:
    """Router, experts and shared experts of a block."""
    experts = [f"{theirs}.mlp.experts.{expert}" for expert in range(config.experts)]
    return [
        Rule(f"{ours}.feed_forward.router.weight", f"{theirs}.mlp.gate.weight"),
        Rule(f"{ours}.feed_forward.router.correction", f"{theirs}.mlp.gate.e_score_correction_bias"),
        *(
            Rule(
                f"{ours}.feed_forward.{name}.weight", tuple(f"{expert}.{name}.weight" for expert in experts), Stacked()
            )
            for name in _MLP
        ),
        *_dense_rules(f"{ours}.feed_forward.shared", f"{theirs}.mlp.shared_experts"),
    ]
