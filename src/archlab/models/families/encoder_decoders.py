"""Encoder-decoders: source tokens and target tokens to next-token logits of the target."""

from __future__ import annotations

from archlab.models.families.family import Family, Size, Variant

_VASWANI = (
    "arXiv 1706.03762, section 5.1 and table 3, which print 65 and 213 million; about 37000 tokens in one table, and "
    "the blocks of torch.nn.Transformer, give neither"
)
_OPUS = "huggingface.co/Helsinki-NLP, counts of the released weights less positions and the bias of the logits"
_T511 = {"activation": "gated-gelu", "tied": False}
_T5 = "huggingface.co/google-t5 and google, counts of the released weights"

ENCODER_DECODERS: tuple[Family, ...] = (
    Family(
        name="encoder_decoder",
        kind="encoder-decoder",
        config_name="EncoderDecoderConfig",
        model_name="EncoderDecoderTransformer",
        model_types=("marian",),
        tiny={
            "vocab_size": 61,
            "context": 32,
            "width": 24,
            "depth": 3,
            "decoder_depth": 2,
            "heads": 3,
            "feed_forward": 40,
        },
        sizes={
            "base": Size(63_082_496, _VASWANI, {}),
            "big": Size(214_245_376, _VASWANI, {"width": 1024, "heads": 16, "feed_forward": 4096}),
            "opus-mt-en-fr": Size(74_609_664, _OPUS, {"vocab_size": 59514, "context": 512, "activation": "silu"}),
        },
        variants={"SiLU": Variant({"activation": "silu"})},
    ),
    Family(
        name="t5",
        kind="encoder-decoder",
        config_name="T5Config",
        model_name="T5",
        model_types=("t5",),
        tiny={
            "vocab_size": 61,
            "width": 16,
            "depth": 3,
            "decoder_depth": 2,
            "heads": 3,
            "head_width": 3,
            "feed_forward": 20,
            # Of the four buckets of a direction, two hold one distance each; some distances are the farthest.
            "buckets": 8,
            "farthest": 8,
            "norm_eps": 1e-2,
        }
        | _T511,
        sizes={
            "t5-small": Size(60_506_624, _T5, {}),
            "t5-base": Size(
                222_903_552,
                _T5,
                {"width": 768, "depth": 12, "decoder_depth": 12, "heads": 12, "feed_forward": 3072},
            ),
            "t5-large": Size(
                737_668_096,
                _T5,
                {"width": 1024, "depth": 24, "decoder_depth": 24, "heads": 16, "feed_forward": 4096},
            ),
            "t5-3b": Size(
                2_851_598_336,
                _T5,
                {
                    "width": 1024,
                    "depth": 24,
                    "decoder_depth": 24,
                    "heads": 32,
                    "head_width": 128,
                    "feed_forward": 16384,
                },
            ),
            "t5-11b": Size(
                11_307_321_344,
                _T5,
                {
                    "width": 1024,
                    "depth": 24,
                    "decoder_depth": 24,
                    "heads": 128,
                    "head_width": 128,
                    "feed_forward": 65536,
                },
            ),
            "t5-v1.1-small": Size(
                76_961_152, _T5, {"depth": 8, "decoder_depth": 8, "heads": 6, "feed_forward": 1024} | _T511
            ),
            "t5-v1.1-base": Size(
                247_577_856,
                _T5,
                {"width": 768, "depth": 12, "decoder_depth": 12, "heads": 12, "feed_forward": 2048} | _T511,
            ),
            "t5-v1.1-large": Size(
                783_150_080,
                _T5,
                {"width": 1024, "depth": 24, "decoder_depth": 24, "heads": 16, "feed_forward": 2816} | _T511,
            ),
            "t5-v1.1-xl": Size(
                2_849_757_184,
                _T5,
                {"width": 2048, "depth": 24, "decoder_depth": 24, "heads": 32, "feed_forward": 5120} | _T511,
            ),
            "t5-v1.1-xxl": Size(
                11_135_332_352,
                _T5,
                {"width": 4096, "depth": 24, "decoder_depth": 24, "heads": 64, "feed_forward": 10240} | _T511,
            ),
        },
        variants={"version 1.0": Variant({"activation": "relu", "tied": True})},
    ),
)
