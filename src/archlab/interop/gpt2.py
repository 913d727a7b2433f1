"""GPT-2 in `transformers`: four matrices per block are stored transposed (Conv1D), queries, keys and values fused."""

from __future__ import annotations

from transformers import GPT2Config as TheirConfig
from transformers import GPT2LMHeadModel, PretrainedConfig, PreTrainedModel

from archlab.interop.options import Options
from archlab.interop.parity import faults
from archlab.interop.transforms import Chained, Fused, Transposed
from archlab.interop.weights import Rule, WeightMap
from archlab.models.gpt2 import GPT2Config

BLOCKS = (("blocks", "transformer.h"),)
FAULTS = (
    faults.untransposed("out_proj", "the output projection of attention is not transposed (Conv1D)"),
    faults.missing_root(),
    faults.activation("gelu", "gelu-tanh", "the exact GELU stands in for the tanh form (gelu_new)"),
    faults.epsilon(),
)

_OPTIONS = Options(
    copied={
        "vocab_size": "vocab_size",
        "context": "n_positions",
        "width": "n_embd",
        "depth": "n_layer",
        "heads": "n_head",
        "norm_eps": "layer_norm_epsilon",
    },
    fixed={
        "activation_function": "gelu_new",
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
    },
    handled=("n_inner",),
    ignored=(
        "attn_pdrop",
        "embd_pdrop",
        "resid_pdrop",
        "n_ctx",  # n_positions again, in old files
        "summary_activation",
        "summary_first_dropout",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
    ),
)


def config_from_hf(theirs: PretrainedConfig) -> GPT2Config:
    """See `interop.family.Interop`."""
    options = _OPTIONS.read(theirs)
    return GPT2Config(feed_forward=theirs.n_inner or 4 * theirs.n_embd, **options)


def config_to_hf(config: GPT2Config) -> TheirConfig:
    """See `interop.family.Interop`."""
    options = _OPTIONS.write(config)
    return TheirConfig(n_inner=config.feed_forward, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0, **options)


def weights(config: GPT2Config) -> WeightMap:
    """See `interop.family.Interop`."""
    ours, theirs = "blocks.{layer}", "transformer.h.{layer}"
    fused = Fused((config.width,) * 3)
    qkv_weights, qkv_biases = (tuple(f"{ours}.attention.{n}_proj.{part}" for n in "qkv") for part in ("weight", "bias"))
    return WeightMap(
        rules=(
            Rule("token_embedding.weight", "transformer.wte.weight"),
            Rule("positions", "transformer.wpe.weight"),
            Rule(f"{ours}.attention_norm.{{part}}", f"{theirs}.ln_1.{{part}}"),
            Rule(qkv_weights, f"{theirs}.attn.c_attn.weight", Chained((Transposed(), fused))),
            Rule(qkv_biases, f"{theirs}.attn.c_attn.bias", fused),
            Rule(f"{ours}.attention.out_proj.weight", f"{theirs}.attn.c_proj.weight", Transposed()),
            Rule(f"{ours}.attention.out_proj.bias", f"{theirs}.attn.c_proj.bias"),
            Rule(f"{ours}.feed_forward_norm.{{part}}", f"{theirs}.ln_2.{{part}}"),
            Rule(f"{ours}.feed_forward.up_proj.weight", f"{theirs}.mlp.c_fc.weight", Transposed()),
            Rule(f"{ours}.feed_forward.up_proj.bias", f"{theirs}.mlp.c_fc.bias"),
            Rule(f"{ours}.feed_forward.down_proj.weight", f"{theirs}.mlp.c_proj.weight", Transposed()),
            Rule(f"{ours}.feed_forward.down_proj.bias", f"{theirs}.mlp.c_proj.bias"),
            Rule("norm.{part}", "transformer.ln_f.{part}"),
        ),
        values={"layer": range(config.depth), "part": ("weight", "bias")},
        prefix="transformer.",
        tied={"lm_head.weight": "transformer.wte.weight"},
        ignored=(r"h\.\d+\.attn\.(bias|masked_bias)",),  # causal masks, saved as buffers by old versions
    )


def reference(theirs: TheirConfig) -> PreTrainedModel:
    """See `interop.family.Interop`."""
    return GPT2LMHeadModel(theirs)
