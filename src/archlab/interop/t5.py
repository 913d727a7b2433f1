"""T5 in `transformers`: one class for both versions; whether the output layer is tied is read from how it is scaled."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, T5ForConditionalGeneration
from transformers import T5Config as TheirConfig

from archlab.errors import UserError
from archlab.interop.options import Options
from archlab.interop.parity import faults
from archlab.interop.parity.faults import Edit, Fault
from archlab.interop.weights import Rule, WeightMap
from archlab.models.t5 import T5, T5Config

BLOCKS = (("encoder.blocks", "encoder.block"), ("decoder.blocks", "decoder.block"))


def _decoder_looks_ahead(bidirectional: bool) -> Edit:
    def edit(model: nn.Module, _: Sequence[nn.Module]) -> None:
        assert isinstance(model, T5)
        model.decoder.position_bias.bidirectional = bidirectional

    return edit


def _mirror(model: nn.Module, _: Sequence[nn.Module]) -> None:
    """Swap the buckets of earlier and later keys."""
    assert isinstance(model, T5)
    table = model.encoder.position_bias.table.weight
    before, after = table.data[1 : len(table) // 2], table.data[len(table) // 2 + 1 : len(table) // 2 * 2]
    swapped = torch.cat([after, before])
    before.copy_(swapped[: len(after)])
    after.copy_(swapped[len(after) :])


FAULTS = (
    faults.extra_root(),
    Fault(
        "distances run from key to query instead of from query to key", _mirror, _mirror, "output of encoder.blocks.0"
    ),
    Fault(
        "the decoder's buckets are those of both directions",
        _decoder_looks_ahead(True),
        _decoder_looks_ahead(False),
        "output of decoder.blocks.0",
    ),
    faults.activation("gelu", "gelu-tanh", "the exact GELU stands in for the tanh form (gelu_new)"),
    faults.epsilon(),
)

_OPTIONS = Options(
    copied={
        "vocab_size": "vocab_size",
        "width": "d_model",
        "depth": "num_layers",
        "decoder_depth": "num_decoder_layers",
        "heads": "num_heads",
        "head_width": "d_kv",
        "feed_forward": "d_ff",
        "activation": "feed_forward_proj",
        "buckets": "relative_attention_num_buckets",
        "farthest": "relative_attention_max_distance",
        "norm_eps": "layer_norm_epsilon",
    },
    fixed={"is_encoder_decoder": True, "is_decoder": False},
    handled=("dense_act_fn", "is_gated_act", "scale_decoder_outputs", "tie_word_embeddings"),
    ignored=(
        "dropout_rate",
        "classifier_dropout",
        "initializer_factor",
        "n_positions",  # of the data: the model has no limit
        "output_past",
        "decoder_start_token_id",  # of generation
    ),
)
_ACTIVATIONS = {"relu": ("relu", False), "gated-gelu": ("gelu_new", True)}


def config_from_hf(theirs: PretrainedConfig) -> T5Config:
    """See `interop.family.Interop`."""
    options = _OPTIONS.read(theirs)
    given = theirs.to_dict()
    if _ACTIVATIONS.get(options["activation"]) != (given["dense_act_fn"], given["is_gated_act"]):
        raise UserError(
            f"t5 option feed_forward_proj={options['activation']!r} with dense_act_fn={given['dense_act_fn']!r}: "
            f"only 'relu', and 'gated-gelu' with 'gelu_new', are implemented; use another checkpoint"
        )
    # transformers makes `tie_word_embeddings` true whatever the file says, and remembers here what it said.
    return T5Config(tied=given["scale_decoder_outputs"], **options)


def config_to_hf(config: T5Config) -> TheirConfig:
    """See `interop.family.Interop`."""
    options = _OPTIONS.write(config) | {"tie_word_embeddings": config.tied}
    theirs = TheirConfig(dropout_rate=0.0, classifier_dropout=0.0, **options)
    theirs.tie_word_embeddings = config.tied  # for the file; see `config_from_hf`
    return theirs


def weights(config: T5Config) -> WeightMap:
    """See `interop.family.Interop`."""
    names = {"up_proj": "wi"} if config.activation == "relu" else {"gate_proj": "wi_0", "up_proj": "wi_1"}
    names["down_proj"] = "wo"
    rules = [Rule("token_embedding.weight", "shared.weight")]
    for stack, layer, parts in (
        ("encoder", "{layer}", {"attention": "SelfAttention", "feed_forward": "DenseReluDense"}),
        (
            "decoder",
            "{decoder_layer}",
            {"attention": "SelfAttention", "cross_attention": "EncDecAttention", "feed_forward": "DenseReluDense"},
        ),
    ):
        first = f"{stack}.block.0.layer.0.SelfAttention"
        rules += [
            Rule(f"{stack}.position_bias.table.weight", f"{first}.relative_attention_bias.weight"),
            Rule(f"{stack}.norm.weight", f"{stack}.final_layer_norm.weight"),
        ]
        for number, (part, their_part) in enumerate(parts.items()):
            ours, theirs = f"{stack}.blocks.{layer}", f"{stack}.block.{layer}.layer.{number}"
            rules.append(Rule(f"{ours}.{part}_norm.weight", f"{theirs}.layer_norm.weight"))
            inside = names if part == "feed_forward" else {"q_proj": "q", "k_proj": "k", "v_proj": "v", "out_proj": "o"}
            rules += [
                Rule(f"{ours}.{part}.{name}.weight", f"{theirs}.{their_part}.{other}.weight")
                for name, other in inside.items()
            ]
    tied = {f"{stack}.embed_tokens.weight": "shared.weight" for stack in ("encoder", "decoder")}
    if config.tied:
        tied["lm_head.weight"] = "shared.weight"
    else:
        rules.append(Rule("head.weight", "lm_head.weight"))
    return WeightMap(
        rules=tuple(rules),
        values={"layer": range(config.depth), "decoder_layer": range(config.decoder_depth)},
        prefix="transformer.",
        tied=tied,
        # In the first released files; never read.
        ignored=(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),
    )


def reference(theirs: TheirConfig) -> PreTrainedModel:
    """See `interop.family.Interop`."""
    config = copy.deepcopy(theirs)
    config.tie_word_embeddings = True  # or else the stacks would have token tables of their own
    model = T5ForConditionalGeneration(config)
    if not theirs.tie_word_embeddings:  # as when a checkpoint brings an output layer
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    return model
