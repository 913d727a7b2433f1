"""Gemma 3 text in `transformers`: the same matrices under other names; a pattern of layers is written as a list.

Of checkpoints for images and text (`gemma3`), the text model is read and the rest left out; it is written alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import Gemma3Config, Gemma3ForCausalLM, PretrainedConfig, PreTrainedModel
from transformers import Gemma3TextConfig as TheirConfig

from archlab.errors import UserError
from archlab.interop.options import Options
from archlab.interop.parity import faults
from archlab.interop.rotary import rope_to_hf, scaling_from_hf
from archlab.interop.weights import Rule, WeightMap
from archlab.layers.rotary_scaling import LinearScaling
from archlab.models.gemma import Gemma, GemmaBlock, GemmaConfig

_OPTIONS = Options(
    copied={
        "vocab_size": "vocab_size",
        "context": "max_position_embeddings",
        "width": "hidden_size",
        "depth": "num_hidden_layers",
        "heads": "num_attention_heads",
        "key_value_heads": "num_key_value_heads",
        "head_width": "head_dim",
        "score_width": "query_pre_attn_scalar",
        "feed_forward": "intermediate_size",
        "norm_eps": "rms_norm_eps",
        # In a bidirectional configuration they keep half of it and one in memory, but read and write the whole.
        "window": "sliding_window",
    },
    fixed={
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "tie_word_embeddings": True,
    },
    handled=(
        "rope_parameters",
        "layer_types",
        "sliding_window_pattern",
        "_sliding_window_pattern",
        "use_bidirectional_attention",
    ),
    ignored=("attention_dropout", "cache_implementation"),
)


def config_from_hf(theirs: PretrainedConfig) -> GemmaConfig:
    """See `interop.family.Interop`."""
    if isinstance(theirs, Gemma3Config):
        assert isinstance(theirs.text_config, PretrainedConfig)
        theirs = theirs.text_config
    options = _OPTIONS.read(theirs)
    if options["window"] is None:
        raise UserError("gemma3_text option sliding_window=None: local layers need a window; use another checkpoint")
    rope: dict[str, dict[str, Any]] = theirs.rope_parameters
    scalings = [
        scaling_from_hf(rope[kind], family="gemma3_text", context=theirs.max_position_embeddings, types=types)
        for kind, types in (("full_attention", ("default", "linear")), ("sliding_attention", ("default",)))
    ]
    assert scalings[0] is None or isinstance(scalings[0], LinearScaling)
    return GemmaConfig(
        global_every=_global_every(theirs),
        rotary_base=float(rope["full_attention"]["rope_theta"]),
        local_rotary_base=float(rope["sliding_attention"]["rope_theta"]),
        rotary_scaling=scalings[0],
        bidirectional=bool(theirs.use_bidirectional_attention),
        **options,
    )


def config_to_hf(config: GemmaConfig) -> TheirConfig:
    """See `interop.family.Interop`."""
    if config.width % config.heads:
        raise UserError(f"heads={config.heads}: transformers wants them to divide the width, {config.width}")
    return TheirConfig(
        rope_parameters={
            "full_attention": rope_to_hf(config.rotary_base, config.rotary_scaling),
            "sliding_attention": rope_to_hf(config.local_rotary_base, None),
        },
        layer_types=_layer_types(config.depth, config.global_every),
        use_bidirectional_attention=config.bidirectional,
        # Not an option of its own any more, but read and kept.
        **_OPTIONS.write(config) | {"sliding_window_pattern": config.global_every},
    )


def weights(config: GemmaConfig) -> WeightMap:
    """See `interop.family.Interop`."""
    ours, theirs = "blocks.{layer}", "model.layers.{layer}"
    return WeightMap(
        rules=(
            Rule("token_embedding.weight", "model.embed_tokens.weight"),
            Rule(f"{ours}.attention_norm.weight", f"{theirs}.input_layernorm.weight"),
            Rule(f"{ours}.attention.{{qkv}}.weight", f"{theirs}.self_attn.{{qkv}}.weight"),
            Rule(f"{ours}.attention.query_norm.weight", f"{theirs}.self_attn.q_norm.weight"),
            Rule(f"{ours}.attention.key_norm.weight", f"{theirs}.self_attn.k_norm.weight"),
            Rule(f"{ours}.attention.out_proj.weight", f"{theirs}.self_attn.o_proj.weight"),
            Rule(f"{ours}.attention_post_norm.weight", f"{theirs}.post_attention_layernorm.weight"),
            Rule(f"{ours}.feed_forward_norm.weight", f"{theirs}.pre_feedforward_layernorm.weight"),
            Rule(f"{ours}.feed_forward.{{mlp}}.weight", f"{theirs}.mlp.{{mlp}}.weight"),
            Rule(f"{ours}.feed_forward_post_norm.weight", f"{theirs}.post_feedforward_layernorm.weight"),
            Rule("norm.weight", "model.norm.weight"),
        ),
        values={
            "layer": range(config.depth),
            "qkv": ("q_proj", "k_proj", "v_proj"),
            "mlp": ("gate_proj", "up_proj", "down_proj"),
        },
        prefix="model.",
        parent="language_model.",
        tied={"lm_head.weight": "model.embed_tokens.weight"},
        ignored=(r"vision_tower\..*", r"multi_modal_projector\..*"),
    )


def reference(theirs: TheirConfig) -> PreTrainedModel:
    """See `interop.family.Interop`."""
    return Gemma3ForCausalLM(theirs)


def _layer_types(depth: int, every: int) -> list[str]:
    return ["sliding_attention" if (layer + 1) % every else "full_attention" for layer in range(depth)]


def _global_every(theirs: PretrainedConfig) -> int:
    kinds: list[str] = theirs.layer_types
    first = kinds.index("full_attention") + 1 if "full_attention" in kinds else len(kinds) + 1
    for every in (theirs._sliding_window_pattern, first):
        if kinds == _layer_types(len(kinds), every):
            return every
    raise UserError("gemma3_text option layer_types: only a full_attention at every n-th layer is implemented")


def _config(model: nn.Module) -> GemmaConfig:
    assert isinstance(model, Gemma)
    return model.config


def _blocks(blocks: Sequence[nn.Module]) -> list[GemmaBlock]:
    return [block for block in blocks if isinstance(block, GemmaBlock)]


def _local_for_global() -> faults.Fault:
    def edit(model: nn.Module, blocks: Sequence[nn.Module]) -> None:
        for block in _blocks(blocks):
            block.window = _config(model).window if block.window is None else None

    return faults.Fault("a local layer is taken for a global one (window and rotary base), or the reverse", edit, edit)


def _wide_window() -> faults.Fault:
    def widen(by: int) -> faults.Edit:
        def edit(_: nn.Module, blocks: Sequence[nn.Module]) -> None:
            for block in _blocks(blocks):
                if block.window is not None:
                    block.window += by

        return edit

    return faults.Fault("the window of local layers is one token too wide", widen(1), widen(-1))


def _score_scale() -> faults.Fault:
    def plant(_: nn.Module, blocks: Sequence[nn.Module]) -> None:
        for block in _blocks(blocks):
            block.attention.scale = None

    def repair(model: nn.Module, blocks: Sequence[nn.Module]) -> None:
        for block in _blocks(blocks):
            block.attention.scale = _config(model).score_width ** -0.5

    return faults.Fault(
        "scores are divided by the root of the head's width, not by query_pre_attn_scalar", plant, repair
    )


def _swapped_norms() -> faults.Fault:
    def edit(_: nn.Module, blocks: Sequence[nn.Module]) -> None:
        for block in _blocks(blocks):
            block.attention_post_norm, block.feed_forward_norm = block.feed_forward_norm, block.attention_post_norm

    return faults.Fault("post_attention_layernorm is taken for the norm before feed-forward, as in LLaMA", edit, edit)


BLOCKS = (("blocks", "model.layers"),)
FAULTS = (
    faults.unit_offset(),
    _local_for_global(),
    _wide_window(),
    _score_scale(),
    _swapped_norms(),
    faults.rotary_layout(),
    faults.head_mapping(),
    faults.activation("gelu", "gelu-tanh", "the exact GELU stands in for the tanh form (gelu_pytorch_tanh)"),
    faults.epsilon(),
)
