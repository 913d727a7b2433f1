"""Configurations of released checkpoints are read; what our models do not do is refused by name."""

import pytest
from transformers import (
    DeepseekV3Config,
    Gemma3Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MixtralConfig,
    ViTConfig,
)

from archlab.errors import UserError
from archlab.models.registry import FAMILIES, find

SIZES = [(family, size) for family in FAMILIES.values() for size in family.sizes]

# config.json as released, shortened by what every version writes.
GPT2_RELEASED = {
    "n_ctx": 1024,
    "n_embd": 768,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "architectures": ["GPT2LMHeadModel"],
}
LLAMA_32_1B_RELEASED = {
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "head_dim": 64,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 128256,
}
MIXTRAL_RELEASED = {
    "architectures": ["MixtralForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "num_attention_heads": 32,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "output_router_logits": False,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0,
    "router_aux_loss_coef": 0.02,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 32000,
}
DEEPSEEK_V3_RELEASED = {  # but for the quantisation
    "architectures": ["DeepseekV3ForCausalLM"],
    "attention_bias": False,
    "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"},
    "aux_loss_alpha": 0.001,
    "ep_size": 1,
    "first_k_dense_replace": 3,
    "hidden_act": "silu",
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "kv_lora_rank": 512,
    "max_position_embeddings": 163840,
    "moe_intermediate_size": 2048,
    "moe_layer_freq": 1,
    "n_group": 8,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 61,
    "num_key_value_heads": 128,
    "num_nextn_predict_layers": 1,
    "pretraining_tp": 1,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 40,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096,
        "type": "yarn",
    },
    "rope_theta": 10000,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "seq_aux": True,
    "tie_word_embeddings": False,
    "topk_group": 4,
    "topk_method": "noaux_tc",
    "v_head_dim": 128,
    "vocab_size": 129280,
}
MOONLIGHT_RELEASED = DEEPSEEK_V3_RELEASED | {
    "first_k_dense_replace": 1,
    "hidden_size": 2048,
    "intermediate_size": 11264,
    "max_position_embeddings": 8192,
    "moe_intermediate_size": 1408,
    "n_group": 1,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "num_attention_heads": 16,
    "num_experts_per_tok": 6,
    "num_hidden_layers": 27,
    "num_key_value_heads": 16,
    "num_nextn_predict_layers": 0,
    "q_lora_rank": None,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 50000.0,
    "routed_scaling_factor": 2.446,
    "topk_group": 1,
    "vocab_size": 163840,
}
GEMMA_3_1B_RELEASED = {
    "architectures": ["Gemma3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": None,
    "bos_token_id": 2,
    "cache_implementation": "hybrid",
    "eos_token_id": [1, 106],
    "final_logit_softcapping": None,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 1152,
    "initializer_range": 0.02,
    "intermediate_size": 6912,
    "max_position_embeddings": 32768,
    "num_attention_heads": 4,
    "num_hidden_layers": 26,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 262144,
}
EMBEDDINGGEMMA_RELEASED = GEMMA_3_1B_RELEASED | {
    "_sliding_window_pattern": 6,
    "architectures": ["Gemma3TextModel"],
    "hidden_size": 768,
    "intermediate_size": 1152,
    "layer_types": ["full_attention" if layer % 6 == 5 else "sliding_attention" for layer in range(24)],
    "max_position_embeddings": 2048,
    "num_attention_heads": 3,
    "num_hidden_layers": 24,
    "use_bidirectional_attention": True,
}
GEMMA_3_4B_RELEASED = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "mm_tokens_per_image": 256,
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "vision_config": {"hidden_size": 1152, "image_size": 896, "model_type": "siglip_vision_model"},
}
MAMBA_370M_RELEASED = {
    "architectures": ["MambaForCausalLM"],
    "conv_kernel": 4,
    "d_inner": 2048,
    "d_model": 1024,
    "expand": 2,
    "fused_add_norm": True,
    "hidden_size": 1024,
    "intermediate_size": 2048,
    "layer_norm_epsilon": 1e-05,
    "n_layer": 48,
    "num_hidden_layers": 48,
    "pad_vocab_size_multiple": 8,
    "residual_in_fp32": True,
    "rms_norm": True,
    "ssm_cfg": {},
    "state_size": 16,
    "time_step_rank": 64,
    "torch_dtype": "float32",
    "vocab_size": 50280,
}


@pytest.mark.parametrize(
    ("theirs", "family", "size"),
    [
        (GPT2Config(**GPT2_RELEASED), "gpt2", "gpt2"),
        (LlamaConfig(**LLAMA_32_1B_RELEASED), "llama", "llama-3.2-1b"),
        (MixtralConfig(**MIXTRAL_RELEASED), "mixtral", "mixtral-8x7b"),
        (DeepseekV3Config(**DEEPSEEK_V3_RELEASED), "deepseek", "deepseek-v3"),
        (DeepseekV3Config(**MOONLIGHT_RELEASED), "deepseek", "moonlight-16b-a3b"),
        (Gemma3TextConfig(**GEMMA_3_1B_RELEASED), "gemma", "gemma-3-1b"),
        (Gemma3Config(**GEMMA_3_4B_RELEASED), "gemma", "gemma-3-4b"),
        (Gemma3TextConfig(**EMBEDDINGGEMMA_RELEASED), "gemma", "embeddinggemma-300m"),
        (MambaConfig(**MAMBA_370M_RELEASED), "mamba", "mamba-370m"),
    ],
)
def test_a_released_configuration_is_the_published_size(theirs, family, size):
    assert find(family).interop.config_from_hf(theirs) == find(family).config(size)


@pytest.mark.parametrize(("family", "size"), SIZES, ids=[size for _, size in SIZES])
def test_every_published_configuration_goes_there_and_back(family, size):
    config = family.config(size)
    assert family.interop.config_from_hf(family.interop.config_to_hf(config)) == config


@pytest.mark.parametrize(
    ("family", "theirs", "message"),
    [
        ("gpt2", GPT2Config(activation_function="relu"), "activation_function='relu': only 'gelu_new'"),
        ("gpt2", GPT2Config(scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx=True"),
        ("gpt2", GPT2Config(tie_word_embeddings=False), "tie_word_embeddings=False"),
        ("gpt2", GPT2Config(shiny=3), "shiny=3: is not implemented"),
        ("gpt2", GPT2Config(quantization_config={"bits": 4}), "quantization_config"),
        ("gpt2", GPT2Config(is_encoder_decoder=True), "is_encoder_decoder=True"),
        ("llama", LlamaConfig(attention_bias=True), "attention_bias=True"),
        ("llama", LlamaConfig(head_dim=64), "head_dim=64"),
        ("llama", LlamaConfig(rope_scaling={"rope_type": "proportional", "factor": 2.0}), "rope_type='proportional'"),
        ("llama", LlamaConfig(rope_scaling={"rope_type": "linear", "factor": 2.0, "bend": 1}), "bend=1"),
        ("mixtral", MixtralConfig(sliding_window=4096), "sliding_window=4096: only None"),
        ("mixtral", MixtralConfig(head_dim=64), "head_dim=64"),
        ("mixtral", MixtralConfig(rope_scaling={"rope_type": "linear", "factor": 2.0}), "rope_type='linear'"),
        ("deepseek", DeepseekV3Config(attention_bias=True), "attention_bias=True: only False"),
        ("deepseek", DeepseekV3Config(scoring_func="softmax"), "scoring_func='softmax': only 'sigmoid'"),
        ("deepseek", DeepseekV3Config(topk_method="group_limited_greedy"), "topk_method='group_limited_greedy'"),
        ("deepseek", DeepseekV3Config(num_key_value_heads=64), "num_key_value_heads=64: only num_attention_heads, 128"),
        ("deepseek", DeepseekV3Config(rope_scaling={"rope_type": "linear", "factor": 2.0}), "rope_type='linear'"),
        ("gemma", Gemma3TextConfig(final_logit_softcapping=30.0), "final_logit_softcapping=30.0: only None"),
        ("gemma", Gemma3TextConfig(sliding_window=None), "sliding_window=None"),
        ("gemma", Gemma3TextConfig(rope_scaling={"rope_type": "yarn", "factor": 2.0}), "rope_type='yarn'"),
        (
            "gemma",
            Gemma3TextConfig(num_hidden_layers=3, layer_types=["sliding_attention", *["full_attention"] * 2]),
            "layer_types: only a full_attention at every n-th layer",
        ),
        ("mamba", MambaConfig(use_bias=True), "use_bias=True: only False"),
        ("mamba", MambaConfig(residual_in_fp32=False), "residual_in_fp32=False: only True"),
        ("mamba", MambaConfig(intermediate_size=1000), "intermediate_size=1000: only 1536"),
        ("mamba", MambaConfig(ssm_cfg={"layer": "Mamba2"}), "ssm_cfg="),
        ("vit", ViTConfig(image_size=[224, 112]), "only squares"),
        ("vit", ViTConfig(qkv_bias=False), "qkv_bias=False"),
    ],
)
def test_an_option_that_is_not_implemented_is_refused(family, theirs, message):
    with pytest.raises(UserError, match=message):
        find(family).interop.config_from_hf(theirs)


def test_what_transformers_cannot_express_is_refused():
    family = find("vit")
    config = family.config_class(class_token=False)
    with pytest.raises(UserError, match="class_token=False"):
        family.interop.config_to_hf(config)
