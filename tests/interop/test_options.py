"""Configurations of released checkpoints are read; what our models do not do is refused by name."""

import dataclasses

import pytest
from tests.interop import released
from transformers import (
    BertConfig,
    CLIPConfig,
    DeepseekV3Config,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    Gemma3Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MarianConfig,
    MixtralConfig,
    SiglipConfig,
    T5Config,
    ViTConfig,
    VJEPA2Config,
)

from archlab.errors import UserError
from archlab.models.registry import FAMILIES, find

SIZES = [(family, size) for family in FAMILIES.values() for size in family.sizes]

MARIAN = {"activation_function": "relu", "scale_embedding": True}


@pytest.mark.parametrize(
    ("theirs", "family", "size"),
    [
        (BertConfig(**released.BERT_LARGE_CASED), "bert", "bert-large-cased"),
        (GPT2Config(**released.GPT2), "gpt2", "gpt2"),
        (LlamaConfig(**released.LLAMA_32_1B), "llama", "llama-3.2-1b"),
        (MixtralConfig(**released.MIXTRAL), "mixtral", "mixtral-8x7b"),
        (DeepseekV3Config(**released.DEEPSEEK_V3), "deepseek", "deepseek-v3"),
        (DeepseekV3Config(**released.MOONLIGHT), "deepseek", "moonlight-16b-a3b"),
        (Gemma3TextConfig(**released.GEMMA_3_1B), "gemma", "gemma-3-1b"),
        (Gemma3Config(**released.GEMMA_3_4B), "gemma", "gemma-3-4b"),
        (Gemma3TextConfig(**released.EMBEDDINGGEMMA), "gemma", "embeddinggemma-300m"),
        (MambaConfig(**released.MAMBA_370M), "mamba", "mamba-370m"),
        (T5Config(**released.T5_BASE), "t5", "t5-base"),
        (T5Config(**released.T5_V11_SMALL), "t5", "t5-v1.1-small"),
        (CLIPConfig(**released.CLIP_B32), "clip", "clip-vit-b-32"),
        (SiglipConfig(**released.SIGLIP_SO400M), "siglip", "siglip-so400m-patch14-384"),
        (Dinov2Config(**released.DINOV2_GIANT), "dinov2", "dinov2-giant"),
        (
            Dinov2WithRegistersConfig(**released.DINOV2_GIANT | released.REGISTERS),
            "dinov2",
            "dinov2-giant-with-registers",
        ),
        (VJEPA2Config(**released.VJEPA_GIANT), "vjepa", "vjepa2-vitg-fpc64-384"),
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
        ("encoder_decoder", MarianConfig(**MARIAN | {"activation_function": "tanh"}), "only relu, swish, silu are"),
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
        ("t5", T5Config(feed_forward_proj="gated-silu"), "feed_forward_proj='gated-silu'"),
        ("t5", T5Config(is_encoder_decoder=False), "is_encoder_decoder=False"),
        ("vit", ViTConfig(image_size=[224, 112]), "only squares"),
        ("vit", ViTConfig(qkv_bias=False), "qkv_bias=False"),
        ("clip", CLIPConfig(text_config={"hidden_act": "relu"}), "hidden_act='quick_gelu' and 'relu'"),
        ("clip", CLIPConfig(text_config={"eos_token_id": None}), "eos_token_id=None: must be one id"),
        ("clip", CLIPConfig(text_config={"shiny": 3}), "clip_text_model option shiny=3: is not implemented"),
        (
            "clip",
            CLIPConfig(vision_config={"image_size": [224, 112]}),
            "clip_vision_model option .*only squares",
        ),
        ("clip", CLIPConfig(vision_config={"pruned_heads": {"0": [1]}}), "pruned_heads="),
        ("siglip", SiglipConfig(vision_config={"vision_use_head": False}), "vision_use_head=False: only True"),
        ("siglip", SiglipConfig(text_config={"projection_size": 512}), "projection_size=512: must be the hidden_size"),
        ("dinov2", Dinov2Config(use_mask_token=False), "use_mask_token=False"),
        ("dinov2", Dinov2Config(image_size=[518, 224]), "dinov2 option .*only squares"),
        ("dinov2", Dinov2WithRegistersConfig(hidden_act="relu"), "dinov2_with_registers option hidden_act='relu'"),
        ("vjepa", VJEPA2Config(qkv_bias=False), "qkv_bias=False"),
        ("vjepa", VJEPA2Config(patch_size=[16, 8]), "patch_size=.*only squares"),
    ],
)
def test_an_option_that_is_not_implemented_is_refused(family, theirs, message):
    with pytest.raises(UserError, match=message):
        find(family).interop.config_from_hf(theirs)


@pytest.mark.parametrize(
    ("family", "option", "value"),
    [
        ("vit", "class_token", False),
        ("vit", "stem", "convolutional"),
        ("encoder_decoder", "pre_norm", True),
        ("encoder_decoder", "norm_eps", 1e-3),
    ],
)
def test_what_transformers_cannot_express_is_refused(family, option, value):
    config = find(family).config_class(**{option: value})
    with pytest.raises(UserError, match=f"{option}={value!r}"):
        find(family).interop.config_to_hf(config)


def test_shapes_and_tokens_that_transformers_cannot_express_are_refused():
    dinov2 = find("dinov2").config_class
    size = dataclasses.replace(dinov2().transformer, feed_forward=3000)
    with pytest.raises(UserError, match="feed_forward=3000: transformers has only"):
        find("dinov2").interop.config_to_hf(dinov2(transformer=size))
    with pytest.raises(UserError, match="end_token=2"):
        find("clip").interop.config_to_hf(find("clip").config_class(end_token=2))
