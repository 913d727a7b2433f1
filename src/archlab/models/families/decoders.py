"""Decoders: tokens to next-token logits."""

from __future__ import annotations

from archlab.models.families.family import Family, Size, Variant

_GPT2 = "github.com/openai/gpt-2, counts of the released weights"
_LLAMA3 = "huggingface.co/meta-llama, safetensors parameter counts"
_LLAMA31 = {"rotary_scaling": {"factor": 8.0}, "context": 131072}
_LLAMA32 = {"rotary_scaling": {"factor": 32.0}, "context": 131072, "tied": True}
_YARN = {"kind": "yarn", "factor": 4.0, "original_context": 64}
_KEPT = "transformers scales all sequences as the longest that it has seen, ours each by its own length"
_NO_CACHE = "a bidirectional model has no cache"
_GEMMA3 = "huggingface.co/google, safetensors parameter counts"
_GEMMA3_TEXT = f"{_GEMMA3}, less vision tower and projector"
_GEMMA3_LARGE = {
    "vocab_size": 262208,
    "context": 131072,
    "window": 1024,
    "rotary_scaling": {"factor": 8.0},
}
# The three larger models read images too; these are the parameters of the tower, the projector is (W + 1) x 1152.
_GEMMA3_VISION = 416_866_032
_MIXTRAL = "huggingface.co/mistralai, safetensors parameter counts"
_DEEPSEEK = "huggingface.co/deepseek-ai, safetensors counts less scales and the module of multi-token prediction"
_MOONLIGHT = "huggingface.co/moonshotai, safetensors count less buffers: 26 corrections and 27 tables of frequencies"
_MAMBA = "huggingface.co/state-spaces, safetensors parameter counts"

DECODERS: tuple[Family, ...] = (
    Family(
        name="gpt2",
        kind="decoder",
        config_name="GPT2Config",
        model_name="GPT2",
        model_types=("gpt2",),
        tiny={
            "vocab_size": 61,
            "context": 32,
            "width": 24,
            "depth": 3,
            "heads": 3,
            "feed_forward": 40,
            "norm_eps": 1e-4,
        },
        sizes={
            "gpt2": Size(124_439_808, _GPT2, {}),
            "gpt2-medium": Size(354_823_168, _GPT2, {"width": 1024, "depth": 24, "heads": 16, "feed_forward": 4096}),
            "gpt2-large": Size(774_030_080, _GPT2, {"width": 1280, "depth": 36, "heads": 20, "feed_forward": 5120}),
            "gpt2-xl": Size(1_557_611_200, _GPT2, {"width": 1600, "depth": 48, "heads": 25, "feed_forward": 6400}),
        },
    ),
    Family(
        name="llama",
        kind="decoder",
        config_name="LlamaConfig",
        model_name="Llama",
        model_types=("llama",),
        tiny={
            "vocab_size": 61,
            "context": 32,
            "width": 32,
            "depth": 3,
            "heads": 4,
            "key_value_heads": 2,
            "feed_forward": 40,
            "norm_eps": 1e-4,
            "rotary_base": 100.0,
            # Of the four frequencies of a head, the first stays, the last is divided, the others lie between.
            "rotary_scaling": {"factor": 4.0, "original_context": 16},
        },
        sizes={
            "llama-3-8b": Size(8_030_261_248, _LLAMA3, {}),
            "llama-3-70b": Size(
                70_553_706_496, _LLAMA3, {"width": 8192, "depth": 80, "heads": 64, "feed_forward": 28672}
            ),
            "llama-3.1-8b": Size(8_030_261_248, _LLAMA3, _LLAMA31),
            "llama-3.1-70b": Size(
                70_553_706_496, _LLAMA3, {"width": 8192, "depth": 80, "heads": 64, "feed_forward": 28672} | _LLAMA31
            ),
            "llama-3.1-405b": Size(
                405_853_388_800, _LLAMA3, {"width": 16384, "depth": 126, "heads": 128, "feed_forward": 53248} | _LLAMA31
            ),
            "llama-3.2-1b": Size(1_235_814_400, _LLAMA3, {"width": 2048, "depth": 16, "feed_forward": 8192} | _LLAMA32),
            "llama-3.2-3b": Size(
                3_212_749_824, _LLAMA3, {"width": 3072, "depth": 28, "heads": 24, "feed_forward": 8192} | _LLAMA32
            ),
            "llama-3.3-70b-instruct": Size(
                70_553_706_496, _LLAMA3, {"width": 8192, "depth": 80, "heads": 64, "feed_forward": 28672} | _LLAMA31
            ),
        },
        variants={
            "multi-head": Variant({"key_value_heads": 4}),
            "multi-query, tied, unscaled": Variant({"key_value_heads": 1, "tied": True, "rotary_scaling": None}),
            "linear": Variant({"rotary_scaling": {"kind": "linear", "factor": 4.0}}),
            "dynamic NTK": Variant(
                # The sequences of the comparisons have 12 tokens.
                {"rotary_scaling": {"kind": "dynamic", "factor": 3.0, "original_context": 8}, "context": 24},
                without={"cached decoding": _KEPT, "generation": _KEPT},
            ),
            "YaRN": Variant({"rotary_scaling": _YARN | {"fast_turns": 8.0}, "context": 256}),
            "YaRN with magnitudes": Variant(
                {"rotary_scaling": _YARN | {"magnitude": 1.0, "magnitude_all": 0.5}, "context": 256}
            ),
            "YaRN by hand": Variant(
                {"rotary_scaling": _YARN | {"attention_factor": 1.2, "truncate": False}, "context": 256}
            ),
        },
    ),
    Family(
        name="gemma",
        kind="decoder",
        config_name="GemmaConfig",
        model_name="Gemma",
        model_types=("gemma3_text", "gemma3"),
        tiny={
            "vocab_size": 61,
            "context": 32,
            "width": 32,
            "depth": 3,
            "heads": 4,
            "key_value_heads": 2,
            "head_width": 6,
            "score_width": 10,
            "feed_forward": 40,
            "norm_eps": 1e-3,
            "window": 4,
            "global_every": 3,
            "rotary_base": 100.0,
            "local_rotary_base": 10.0,
            "rotary_scaling": {"factor": 2.0},
        },
        sizes={
            "gemma-3-270m": Size(268_098_176, _GEMMA3, {"width": 640, "depth": 18, "feed_forward": 2048}),
            "gemma-3-1b": Size(999_885_952, _GEMMA3, {}),
            "gemma-3-4b": Size(
                4_300_079_472 - _GEMMA3_VISION - 2561 * 1152,
                _GEMMA3_TEXT,
                _GEMMA3_LARGE | {"width": 2560, "depth": 34, "heads": 8, "key_value_heads": 4, "feed_forward": 10240},
            ),
            "gemma-3-12b": Size(
                12_187_325_040 - _GEMMA3_VISION - 3841 * 1152,
                _GEMMA3_TEXT,
                _GEMMA3_LARGE | {"width": 3840, "depth": 48, "heads": 16, "key_value_heads": 8, "feed_forward": 15360},
            ),
            "gemma-3-27b": Size(
                27_432_406_640 - _GEMMA3_VISION - 5377 * 1152,
                _GEMMA3_TEXT,
                _GEMMA3_LARGE
                | {"width": 5376, "depth": 62, "heads": 32, "key_value_heads": 16, "feed_forward": 21504}
                | {"head_width": 128, "score_width": 168},
            ),
            "embeddinggemma-300m": Size(
                302_863_104,
                f"{_GEMMA3}, without the layers after pooling",
                {
                    "context": 2048,
                    "width": 768,
                    "depth": 24,
                    "heads": 3,
                    "feed_forward": 1152,
                    "bidirectional": True,
                },
            ),
        },
        variants={
            "bidirectional": Variant(
                {"bidirectional": True}, without={"cached decoding": _NO_CACHE, "generation": _NO_CACHE}
            ),
            "multi-query, unscaled": Variant({"key_value_heads": 1, "rotary_scaling": None}),
        },
    ),
    Family(
        name="mixtral",
        kind="decoder",
        config_name="MixtralConfig",
        model_name="Mixtral",
        model_types=("mixtral",),
        tiny={
            "vocab_size": 61,
            "context": 32,
            "width": 32,
            "depth": 3,
            "heads": 4,
            "key_value_heads": 2,
            "feed_forward": 24,
            "experts": 5,
            "chosen_experts": 2,
            "norm_eps": 1e-4,
            "rotary_base": 100.0,
        },
        sizes={
            "mixtral-8x7b": Size(46_702_792_704, _MIXTRAL, {}),
            "mixtral-8x22b": Size(
                140_620_634_112,
                _MIXTRAL,
                {"context": 65536, "width": 6144, "depth": 56, "heads": 48, "feed_forward": 16384},
            ),
        },
    ),
    Family(
        name="deepseek",
        kind="decoder",
        config_name="DeepseekConfig",
        model_name="Deepseek",
        model_types=("deepseek_v3",),
        tiny={
            "vocab_size": 61,
            "context": 32,
            "width": 32,
            "depth": 3,
            "heads": 3,
            "query_latent": 20,
            "key_value_latent": 12,
            "head_width": 6,
            "rotary_width": 8,
            "value_width": 5,
            "feed_forward": 40,
            "dense_layers": 1,
            "expert_feed_forward": 16,
            "experts": 8,
            "chosen_experts": 3,
            "shared_experts": 2,
            "groups": 4,
            "chosen_groups": 2,
            "routed_scale": 1.3,
            "norm_eps": 1e-4,
            "rotary_base": 100.0,
            "rotary_scaling": {
                "factor": 4.0,
                "original_context": 8,
                "fast_turns": 1.0,
                "slow_turns": 0.1,
                "magnitude": 0.7,
                "magnitude_all": 1.1,
            },
        },
        sizes={
            "deepseek-v3": Size(
                680_571_043_840 + 3_918_786_560 - 11_610_067_968 - 2 * 129280 * 7168,
                _DEEPSEEK,
                {
                    "context": 163840,
                    "rotary_scaling": {
                        "factor": 40.0,
                        "original_context": 4096,
                        "fast_turns": 32.0,
                        "slow_turns": 1.0,
                        "magnitude": 1.0,
                        "magnitude_all": 1.0,
                    },
                },
            ),
            "moonlight-16b-a3b": Size(
                15_960_111_936 - (26 + 27) * 64,
                _MOONLIGHT,
                {
                    "vocab_size": 163840,
                    "context": 8192,
                    "width": 2048,
                    "depth": 27,
                    "heads": 16,
                    "query_latent": 0,
                    "feed_forward": 11264,
                    "dense_layers": 1,
                    "expert_feed_forward": 1408,
                    "experts": 64,
                    "chosen_experts": 6,
                    "shared_experts": 2,
                    "groups": 1,
                    "chosen_groups": 1,
                    "routed_scale": 2.446,
                    "norm_eps": 1e-5,
                    "rotary_base": 50000.0,
                },
            ),
        },
        variants={
            "no query latent, one group": Variant({"query_latent": 0, "groups": 1, "chosen_groups": 1}),
            "half-split, unscaled": Variant({"interleaved": False, "rotary_scaling": None}),
            # Without the norm the sums of three layers of experts grow beyond what float32 can tell apart.
            "not renormalised, all experts": Variant({"renormalise": False, "dense_layers": 0, "depth": 2}),
            "YaRN without magnitudes": Variant({"rotary_scaling": {"factor": 4.0, "original_context": 8}}),
        },
    ),
    Family(
        name="mamba",
        kind="decoder",
        config_name="MambaConfig",
        model_name="Mamba",
        model_types=("mamba",),
        tiny={
            "vocab_size": 61,
            "width": 24,
            "depth": 3,
            "expand": 3,
            "state_size": 4,
            "kernel": 3,
            "step_rank": 5,
            "norm_eps": 1e-3,
        },
        sizes={
            "mamba-130m": Size(129_135_360, _MAMBA, {}),
            "mamba-370m": Size(371_516_416, _MAMBA, {"width": 1024, "depth": 48, "step_rank": 64}),
            "mamba-790m": Size(793_204_224, _MAMBA, {"width": 1536, "depth": 48, "step_rank": 96}),
            "mamba-1.4b": Size(1_372_178_432, _MAMBA, {"width": 2048, "depth": 48, "step_rank": 128}),
            "mamba-2.8b": Size(2_768_345_600, _MAMBA, {"width": 2560, "depth": 64, "step_rank": 160}),
        },
    ),
)
