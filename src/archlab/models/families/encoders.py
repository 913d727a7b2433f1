"""Encoders of text: tokens to hidden states."""

from __future__ import annotations

from archlab.models.families.family import Family, Size

_BERT = "huggingface.co, safetensors parameter counts less the heads of pretraining"
_LARGE = {"width": 1024, "depth": 24, "heads": 16, "feed_forward": 4096}

ENCODERS: tuple[Family, ...] = (
    Family(
        name="bert",
        kind="encoder",
        config_name="BertConfig",
        model_name="Bert",
        model_types=("bert",),
        tiny={
            "vocab_size": 61,
            "context": 32,
            "token_types": 3,
            "width": 24,
            "depth": 3,
            "heads": 3,
            "feed_forward": 40,
            "norm_eps": 1e-4,
        },
        sizes={
            "bert-base-uncased": Size(109_482_240, _BERT, {}),
            "bert-base-cased": Size(108_310_272, _BERT, {"vocab_size": 28996}),
            "bert-large-uncased": Size(335_141_888, _BERT, _LARGE),
            "bert-large-cased": Size(333_579_264, _BERT, {"vocab_size": 28996} | _LARGE),
            "minilm-l6": Size(
                22_713_216,
                "huggingface.co/sentence-transformers/all-MiniLM-L6-v2, its weights",
                {"width": 384, "depth": 6, "feed_forward": 1536},
            ),
        },
    ),
)
