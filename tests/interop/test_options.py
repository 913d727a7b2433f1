"""Configurations of released checkpoints are read; what our models do not do is refused by name."""

import pytest
from transformers import BertConfig, GPT2Config, LlamaConfig, MarianConfig, T5Config, ViTConfig

from archlab.errors import UserError
from archlab.models.registry import FAMILIES, find

SIZES = [(family, size) for family in FAMILIES.values() for size in family.sizes]

# config.json as released, shortened by what every version writes.
BERT_LARGE_CASED_RELEASED = {
    "architectures": ["BertForMaskedLM"],
    "attention_probs_dropout_prob": 0.1,
    "directionality": "bidi",
    "hidden_act": "gelu",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "layer_norm_eps": 1e-12,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "pooler_fc_size": 768,
    "pooler_num_attention_heads": 12,
    "pooler_num_fc_layers": 3,
    "pooler_size_per_head": 128,
    "pooler_type": "first_token_transform",
    "position_embedding_type": "absolute",
    "vocab_size": 28996,
}
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
T5_BASE_RELEASED = {
    "architectures": ["T5ForConditionalGeneration"],
    "d_ff": 3072,
    "d_model": 768,
    "decoder_start_token_id": 0,
    "eos_token_id": 1,
    "n_positions": 512,
    "num_heads": 12,
    "num_layers": 12,
    "output_past": True,
    "task_specific_params": {"summarization": {"prefix": "summarize: "}},
}
T5_V11_SMALL_RELEASED = {
    "d_ff": 1024,
    "decoder_start_token_id": 0,
    "feed_forward_proj": "gated-gelu",
    "num_decoder_layers": 8,
    "num_heads": 6,
    "num_layers": 8,
    "output_past": True,
    "tie_word_embeddings": False,
}

MARIAN = {"activation_function": "relu", "scale_embedding": True}


@pytest.mark.parametrize(
    ("theirs", "family", "size"),
    [
        (BertConfig(**BERT_LARGE_CASED_RELEASED), "bert", "bert-large-cased"),
        (GPT2Config(**GPT2_RELEASED), "gpt2", "gpt2"),
        (LlamaConfig(**LLAMA_32_1B_RELEASED), "llama", "llama-3.2-1b"),
        (T5Config(**T5_BASE_RELEASED), "t5", "t5-base"),
        (T5Config(**T5_V11_SMALL_RELEASED), "t5", "t5-v1.1-small"),
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
        ("bert", BertConfig(hidden_act="relu"), "hidden_act='relu': only 'gelu'"),
        ("bert", BertConfig(is_decoder=True), "is_decoder=True"),
        ("bert", BertConfig(position_embedding_type="relative_key"), "position_embedding_type='relative_key'"),
        ("encoder_decoder", MarianConfig(activation_function="swish"), "activation_function='swish': only 'relu'"),
        ("encoder_decoder", MarianConfig(**MARIAN, normalize_before=True), "normalize_before=True"),
        ("encoder_decoder", MarianConfig(**MARIAN, decoder_ffn_dim=8), "decoder_ffn_dim=8: only encoder_ffn_dim=4096"),
        ("gpt2", GPT2Config(activation_function="relu"), "activation_function='relu': only 'gelu_new'"),
        ("gpt2", GPT2Config(scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx=True"),
        ("gpt2", GPT2Config(tie_word_embeddings=False), "tie_word_embeddings=False"),
        ("gpt2", GPT2Config(shiny=3), "shiny=3: is not implemented"),
        ("gpt2", GPT2Config(quantization_config={"bits": 4}), "quantization_config"),
        ("gpt2", GPT2Config(is_encoder_decoder=True), "is_encoder_decoder=True"),
        ("llama", LlamaConfig(attention_bias=True), "attention_bias=True"),
        ("llama", LlamaConfig(head_dim=64), "head_dim=64"),
        ("llama", LlamaConfig(rope_scaling={"rope_type": "linear", "factor": 2.0}), "rope_type='linear'"),
        ("t5", T5Config(feed_forward_proj="gated-silu"), "feed_forward_proj='gated-silu'"),
        ("t5", T5Config(is_encoder_decoder=False), "is_encoder_decoder=False"),
        ("vit", ViTConfig(image_size=[224, 112]), "only squares"),
        ("vit", ViTConfig(qkv_bias=False), "qkv_bias=False"),
    ],
)
def test_an_option_that_is_not_implemented_is_refused(family, theirs, message):
    with pytest.raises(UserError, match=message):
        find(family).interop.config_from_hf(theirs)


@pytest.mark.parametrize(
    ("family", "option", "value"),
    [("vit", "class_token", False), ("encoder_decoder", "pre_norm", True), ("encoder_decoder", "norm_eps", 1e-3)],
)
def test_what_transformers_cannot_express_is_refused(family, option, value):
    config = find(family).config_class(**{option: value})
    with pytest.raises(UserError, match=f"{option}={value}"):
        find(family).interop.config_to_hf(config)
