"""Configurations of released checkpoints are read; what our models do not do is refused by name."""

import dataclasses

import pytest
from transformers import (
    CLIPConfig,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    GPT2Config,
    LlamaConfig,
    SiglipConfig,
    ViTConfig,
    VJEPA2Config,
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
# What versions before 5 wrote into every configuration, those of towers too.
LEGACY = {
    "add_cross_attention": False,
    "bad_words_ids": None,
    "cross_attention_hidden_size": None,
    "diversity_penalty": 0.0,
    "do_sample": False,
    "dropout": 0.0,
    "early_stopping": False,
    "finetuning_task": None,
    "is_decoder": False,
    "max_length": 20,
    "num_beam_groups": 1,
    "num_beams": 1,
    "prefix": None,
    "pruned_heads": {},
    "remove_invalid_values": False,
    "return_dict_in_generate": False,
    "sep_token_id": None,
    "temperature": 1.0,
    "tie_encoder_decoder": False,
    "tie_word_embeddings": True,
    "tokenizer_class": None,
    "torchscript": False,
    "use_bfloat16": False,
}
CLIP_B32_RELEASED = {
    "architectures": ["CLIPModel"],
    "projection_dim": 512,
    "text_config": LEGACY | {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "projection_dim": 512},
    "text_config_dict": None,
    "vision_config": LEGACY | {"bos_token_id": None, "eos_token_id": None, "patch_size": 32},
    "vision_config_dict": None,
}
SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
SIGLIP_SO400M_RELEASED = {
    "architectures": ["SiglipModel"],
    "initializer_factor": 1.0,
    "text_config": SO400M | {"model_type": "siglip_text_model"},
    "vision_config": SO400M | {"image_size": 384, "patch_size": 14, "model_type": "siglip_vision_model"},
    "torch_dtype": "float32",
}
DINOV2_GIANT_RELEASED = {
    "architectures": ["Dinov2Model"],
    "drop_path_rate": 0.0,
    "hidden_size": 1536,
    "image_size": 518,
    "layerscale_value": 1.0,
    "mlp_ratio": 4,
    "num_attention_heads": 24,
    "num_hidden_layers": 40,
    "patch_size": 14,
    "torch_dtype": "float32",
    "use_swiglu_ffn": True,
}
REGISTERS = {"num_register_tokens": 4, "architectures": ["Dinov2WithRegistersModel"]}
VJEPA_GIANT_RELEASED = {
    "architectures": ["VJEPA2Model"],
    "crop_size": 384,
    "frames_per_clip": 64,
    "hidden_size": 1408,
    "image_size": 384,
    "mlp_ratio": 4.363636363636363,
    "num_attention_heads": 22,
    "num_hidden_layers": 40,
}


@pytest.mark.parametrize(
    ("theirs", "family", "size"),
    [
        (GPT2Config(**GPT2_RELEASED), "gpt2", "gpt2"),
        (LlamaConfig(**LLAMA_32_1B_RELEASED), "llama", "llama-3.2-1b"),
        (CLIPConfig(**CLIP_B32_RELEASED), "clip", "clip-vit-b-32"),
        (SiglipConfig(**SIGLIP_SO400M_RELEASED), "siglip", "siglip-so400m-patch14-384"),
        (Dinov2Config(**DINOV2_GIANT_RELEASED), "dinov2", "dinov2-giant"),
        (Dinov2WithRegistersConfig(**DINOV2_GIANT_RELEASED | REGISTERS), "dinov2", "dinov2-giant-with-registers"),
        (VJEPA2Config(**VJEPA_GIANT_RELEASED), "vjepa", "vjepa2-vitg-fpc64-384"),
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


def test_what_transformers_cannot_express_is_refused():
    family = find("vit")
    config = family.config_class(class_token=False)
    with pytest.raises(UserError, match="class_token=False"):
        family.interop.config_to_hf(config)
    dinov2 = find("dinov2").config_class
    size = dataclasses.replace(dinov2().transformer, feed_forward=3000)
    with pytest.raises(UserError, match="feed_forward=3000: transformers has only"):
        find("dinov2").interop.config_to_hf(dinov2(transformer=size))
    with pytest.raises(UserError, match="end_token=2"):
        find("clip").interop.config_to_hf(find("clip").config_class(end_token=2))
