"""Tiny checkpoints with random weights in the formats in which real ones are released."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from archlab.data.tokenizer import TextTokenizer
from archlab.interop.parity.twin import Twin, build
from archlab.models.registry import find

SIDE = 32
"""Of the images that the vision models read: the smallest that scenes are drawn at."""
WORDS = ["a red circle", "two blue squares and a star", "what colour is it", "no, it is not green", "three", "yes"]

_IMAGE = {"image_size": SIDE}
_VISION: dict[str, dict[str, Any]] = {
    "vit": _IMAGE,
    "dinov2": {},  # its positions are those of images of 20 pixels, interpolated to larger ones
    "vjepa": _IMAGE,
    "clip": {"image": dict(find("clip").tiny["image"]) | _IMAGE},
    "siglip": {"image": dict(find("siglip").tiny["image"]) | _IMAGE},
}
VISION = tuple(_VISION)


def save_twin(name: str, folder: Path, **options: Any) -> Twin:
    """A checkpoint of the family's tiny model, written by `transformers`; `options` change its configuration."""
    family = find(name)
    twin = build(replace(family, tiny=dict(family.tiny) | options))
    twin.reference.save_pretrained(folder)
    return twin


def save_preprocessor(folder: Path, side: int = SIDE, file: str = "preprocessor_config.json", **changes: Any) -> None:
    """As released, for models whose images are cropped to `side`."""
    content = {
        "crop_size": {"height": side, "width": side},
        "do_center_crop": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"shortest_edge": side * 8 // 7},
    }
    (folder / file).write_text(json.dumps(content | changes), encoding="utf-8")


def save_vision(name: str, folder: Path) -> Twin:
    """A checkpoint of a vision model, whole."""
    twin = save_twin(name, folder, **_VISION[name])
    save_preprocessor(folder, file="video_preprocessor_config.json" if name == "vjepa" else "preprocessor_config.json")
    return twin


def save_language_model(folder: Path, texts: list[str], **options: Any) -> Twin:
    """A checkpoint of a tied LLaMA whose tokenizer knows the bytes and a few pieces of `texts`."""
    tokenizer = TextTokenizer.train(texts, 300)
    shape = {"tied": True, "key_value_heads": 1, "rotary_scaling": None, "vocab_size": tokenizer.vocab_size + 4}
    twin = save_twin("llama", folder, **shape | options)
    tokenizer.save(folder / "tokenizer.json")
    return twin


def save_text_encoder(name: str, folder: Path, pooling: str = "mean", dense: tuple[int, ...] = ()) -> Twin:
    """A checkpoint of an encoder of text ("bert" or "gemma") in the format of `sentence_transformers`.

    Args:
        pooling: "mean", "cls" or "lasttoken".
        dense: widths of linear layers that follow the pooling.
    """
    options = {"bidirectional": True} if name == "gemma" else {}
    twin = save_twin(name, folder, **options)
    theirs = json.loads((folder / "config.json").read_text())
    if name == "gemma":  # as EmbeddingGemma is: the text model alone, without the prefix of the language model
        (folder / "config.json").write_text(json.dumps(theirs | {"architectures": ["Gemma3TextModel"]}))
    own_tokenizer().save(str(folder / "tokenizer.json"))
    kinds = ["Transformer", "Pooling", *["Dense"] * len(dense), "Normalize"]
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    names = {"mean": "mean_tokens", "cls": "cls_token", "lasttoken": "lasttoken"}
    flags = {f"pooling_mode_{key}": name == pooling for name, key in names.items()}
    _write(folder / "1_Pooling", {"word_embedding_dimension": twin.config.width} | flags)
    width, generator = twin.config.width, torch.Generator().manual_seed(0)
    for i, wider in enumerate(dense):
        config = {"in_features": width, "out_features": wider, "bias": False}
        _write(folder / f"{2 + i}_Dense", config | {"activation_function": "torch.nn.modules.linear.Identity"})
        weight = torch.randn(wider, width, generator=generator) / width**0.5
        save_file({"linear.weight": weight}, folder / f"{2 + i}_Dense" / "model.safetensors")
        width = wider
    return twin


def own_tokenizer() -> Tokenizer:
    """Word pieces with the special tokens of BERT, no more of them than the tiny models have rows."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(WORDS, trainers.WordPieceTrainer(vocab_size=58, special_tokens=special))
    ids = {name: tokenizer.token_to_id(name) for name in special}
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    )
    return tokenizer


def _write(folder: Path, config: dict[str, Any]) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
