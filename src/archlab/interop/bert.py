"""BERT in `transformers`: the same matrices under other names; heads have their own."""

from __future__ import annotations

from collections.abc import Mapping

from transformers import BertConfig as TheirConfig
from transformers import BertModel, PretrainedConfig, PreTrainedModel

from archlab.interop.family import Head
from archlab.interop.options import Options
from archlab.interop.parity import faults
from archlab.interop.weights import Rule, WeightMap
from archlab.models.bert import BertClassifier, BertConfig, BertMaskedLM

BLOCKS = (("blocks", "encoder.layer"),)
FAULTS = (
    faults.norm_place(),
    faults.swapped_queries_and_keys(),
    faults.missing_root(),
    faults.activation("gelu-tanh", "gelu", "the tanh form of GELU stands in for the exact one"),
    faults.epsilon(),
)

_OPTIONS = Options(
    copied={
        "vocab_size": "vocab_size",
        "context": "max_position_embeddings",
        "token_types": "type_vocab_size",
        "width": "hidden_size",
        "depth": "num_hidden_layers",
        "heads": "num_attention_heads",
        "feed_forward": "intermediate_size",
        "norm_eps": "layer_norm_eps",
    },
    fixed={
        "hidden_act": "gelu",
        "is_decoder": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
    },
    obsolete={"position_embedding_type": "absolute"},
    ignored=(
        "attention_probs_dropout_prob",
        "hidden_dropout_prob",
        "classifier_dropout",
        "gradient_checkpointing",
        # of the pooler of an experiment that never had code
        "directionality",
        "pooler_fc_size",
        "pooler_num_attention_heads",
        "pooler_num_fc_layers",
        "pooler_size_per_head",
        "pooler_type",
    ),
)


def config_from_hf(theirs: PretrainedConfig) -> BertConfig:
    """See `interop.family.Interop`."""
    return BertConfig(**_OPTIONS.read(theirs))


def config_to_hf(config: BertConfig) -> TheirConfig:
    """See `interop.family.Interop`."""
    return TheirConfig(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **_OPTIONS.write(config))


def weights(config: BertConfig) -> WeightMap:
    """See `interop.family.Interop`."""
    return _map(config, "", pooler=True, ignored=(r"(cls|classifier|qa_outputs)\..*",))  # heads, which `Bert` has not


def masked_lm_weights(config: BertConfig) -> WeightMap:
    """Of `BertMaskedLM`."""
    head = (
        Rule("transform.{part}", "cls.predictions.transform.dense.{part}"),
        Rule("transform_norm.{part}", "cls.predictions.transform.LayerNorm.{part}"),
        Rule("output_bias", "cls.predictions.bias"),
    )
    tied = {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }
    return _map(
        config, "bert.", pooler=False, head=head, tied=tied, ignored=(r"pooler\..*", r"cls\.seq_relationship\..*")
    )


def classifier_weights(config: BertConfig) -> WeightMap:
    """Of `BertClassifier`."""
    return _map(config, "bert.", pooler=True, head=(Rule("classifier.{part}", "classifier.{part}"),))


HEADS = {
    "masked-lm": Head(lambda config, _: BertMaskedLM(config), masked_lm_weights),
    "classifier": Head(lambda config, theirs: BertClassifier(config, len(theirs.id2label or {})), classifier_weights),
}


def _map(
    config: BertConfig,
    prefix: str,
    *,
    pooler: bool,
    head: tuple[Rule, ...] = (),
    tied: Mapping[str, str] | None = None,
    ignored: tuple[str, ...] = (),
) -> WeightMap:
    """The map of trunk and head; where the trunk is the whole model, its names have no prefix."""
    ours, theirs = "blocks.{layer}", "encoder.layer.{layer}"
    trunk = [
        Rule("token_embedding.weight", "embeddings.word_embeddings.weight"),
        Rule("positions", "embeddings.position_embeddings.weight"),
        Rule("type_embedding.weight", "embeddings.token_type_embeddings.weight"),
        Rule("embedding_norm.{part}", "embeddings.LayerNorm.{part}"),
        Rule(f"{ours}.attention.q_proj.{{part}}", f"{theirs}.attention.self.query.{{part}}"),
        Rule(f"{ours}.attention.k_proj.{{part}}", f"{theirs}.attention.self.key.{{part}}"),
        Rule(f"{ours}.attention.v_proj.{{part}}", f"{theirs}.attention.self.value.{{part}}"),
        Rule(f"{ours}.attention.out_proj.{{part}}", f"{theirs}.attention.output.dense.{{part}}"),
        Rule(f"{ours}.attention_norm.{{part}}", f"{theirs}.attention.output.LayerNorm.{{part}}"),
        Rule(f"{ours}.feed_forward.up_proj.{{part}}", f"{theirs}.intermediate.dense.{{part}}"),
        Rule(f"{ours}.feed_forward.down_proj.{{part}}", f"{theirs}.output.dense.{{part}}"),
        Rule(f"{ours}.feed_forward_norm.{{part}}", f"{theirs}.output.LayerNorm.{{part}}"),
    ]
    if pooler:
        trunk.append(Rule("pooler.{part}", "pooler.dense.{part}"))
    return WeightMap(
        rules=(*(Rule(rule.ours, f"{prefix}{rule.theirs}") for rule in trunk), *head),
        values={"layer": range(config.depth), "part": ("weight", "bias")},
        prefix="bert.",
        tied=tied or {},
        ignored=(r"embeddings\.position_ids", *ignored),  # a buffer, saved by old versions
        renamed={"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"},
    )


def reference(theirs: TheirConfig) -> PreTrainedModel:
    """See `interop.family.Interop`."""
    return BertModel(theirs)
