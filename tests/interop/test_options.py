"""Configurations of released checkpoints are read; what our models do not do is refused by name."""

import pytest
from transformers import GPT2Config, LlamaConfig, ViTConfig

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


@pytest.mark.parametrize(
    ("theirs", "family", "size"),
    [
        (GPT2Config(**GPT2_RELEASED), "gpt2", "gpt2"),
        (LlamaConfig(**LLAMA_32_1B_RELEASED), "llama", "llama-3.2-1b"),
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
        ("llama", LlamaConfig(rope_scaling={"rope_type": "linear", "factor": 2.0}), "rope_type='linear'"),
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
