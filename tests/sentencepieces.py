"""Checkpoints of T5 and Marian as they were released first: pickled weights, and SentencePiece models as tokenizers."""

from __future__ import annotations

import io
import json
from pathlib import Path

import sentencepiece
import torch
from safetensors.torch import load_file
from transformers import MarianTokenizer, PreTrainedTokenizerBase, T5Tokenizer

from archlab.config import build as build_config
from archlab.interop.checkpoint import save_pretrained
from archlab.interop.parity.twin import randomise
from archlab.interop.text import Text
from archlab.models.registry import find

ENGLISH = ["the cat sat on the mat", "a naïve café, and more", "hello world, hello again", "the end of the file"] * 5
FRENCH = ["le chat est sur le tapis", "bonjour le monde", "à la fin du café", "encore une fois, bonjour"] * 5


def trained(texts: list[str], pieces: int, **options: int) -> bytes:
    """A SentencePiece model of at most so many pieces."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        vocab_size=pieces,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    return model.getvalue()


def add_t5_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Write `spiece.model`; its reading by `transformers`."""
    (folder / "spiece.model").write_bytes(trained(ENGLISH, 60, pad_id=0, eos_id=1, unk_id=2, bos_id=-1))
    return T5Tokenizer.from_pretrained(folder)


def add_marian_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Write `source.spm`, `target.spm` and `vocab.json`, which lacks a piece of the source; their reading likewise."""
    pieces = ["</s>", "<unk>", ">>fra<<"]
    for name, texts in (("source.spm", ENGLISH), ("target.spm", FRENCH)):
        (folder / name).write_bytes(trained(texts, 50))
        model = sentencepiece.SentencePieceProcessor(model_file=str(folder / name))
        pieces += [
            model.id_to_piece(number) for number in range(model.get_piece_size()) if not model.is_control(number)
        ]
    table = {piece: number for number, piece in enumerate(dict.fromkeys(p for p in [*pieces, "<pad>"] if p != "m"))}
    (folder / "vocab.json").write_text(json.dumps(table))
    return MarianTokenizer.from_pretrained(folder)


ADD = {"t5": add_t5_tokenizer, "encoder_decoder": add_marian_tokenizer}  # family -> the tokenizer that it came with


def as_first_released(folder: Path, name: str) -> PreTrainedTokenizerBase:
    """Write a tiny random model of a family into a new folder; its tokenizer in `transformers`."""
    folder.mkdir()
    theirs = ADD[name](folder)
    family = find(name)
    model = family.model_class(build_config(family.config_class, {**family.tiny, "vocab_size": len(theirs)})).eval()
    randomise(model, torch.Generator().manual_seed(3))
    padding = theirs.pad_token_id
    save_pretrained(model, folder, text=Text(eos=(theirs.eos_token_id,), pad=padding, start=padding))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return theirs
