"""Tokenizers, tiny models beside their references, and a decoder whose distribution is known exactly."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn

from archlab.cli import main
from archlab.interop.parity.twin import build
from archlab.layers.cache import KVCache
from archlab.models.registry import FAMILIES

DECODERS = [name for name, family in FAMILIES.items() if family.kind == "decoder"]
TEXTS = ["the cat sat on the mat", "a naïve café, 你好, 🙂🙃 and ½ more", "hello world, hello again"]


@pytest.fixture(scope="session")
def twins():
    """`twins(name, seed)`: our tiny model of a family and its reference with the same weights."""
    return cache(lambda name, seed: build(FAMILIES[name], seed))


@pytest.fixture(params=DECODERS)
def twin(request, twins):
    return twins(request.param, 0)


@pytest.fixture
def said(capsys):
    """`said(*arguments)`: what `archlab generate` prints."""

    def run(*arguments):
        capsys.readouterr()
        assert main(["generate", *map(str, arguments)]) == 0
        shown = capsys.readouterr().out
        assert shown.endswith("\n")
        return shown[:-1]

    return run


@pytest.fixture
def fails(capsys):
    """`fails(*arguments)`: the line in which `archlab generate` refuses."""

    def run(*arguments):
        capsys.readouterr()
        assert main(["generate", *map(str, arguments)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    return run


@pytest.fixture(scope="session")
def byte_level():
    """A byte-level tokenizer whose tokens often hold part of a character; its first three ids are special."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<pad>", "<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


@pytest.fixture(scope="session")
def byte_fallback():
    """A tokenizer in the manner of SentencePiece: "▁" for spaces, single bytes for characters it does not know."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "h", "i", "▁h", "▁hi", "hi"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    merges = [("▁", "h"), ("▁h", "i"), ("h", "i")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


class Historian(nn.Module):
    """Logits are the row of a table (S, V) that the sum of all tokens so far, modulo S, names.

    It remembers through its cache alone, so that a cache that is wrong gives wrong logits.
    """

    def __init__(self, table):
        super().__init__()
        self.table = table
        self.blocks = nn.ModuleList([nn.Linear(1, 1)])

    def new_cache(self):
        return [KVCache()]

    def forward(self, tokens, *, mask=None, cache=None, keep=0):
        values = tokens[:, None, :, None].float()  # (B, 1, T, 1)
        kept, _ = cache[0].append(values, values)
        total = kept[:, 0, :, 0].cumsum(1).long()  # (B, Tk)
        return self.table[total[:, -tokens.shape[1] :] % len(self.table)][:, -keep:]


class Scripted(nn.Module):
    """Continues every prompt by the same tokens, whatever it is."""

    def __init__(self, script, vocabulary, prompt):
        super().__init__()
        self.script, self.vocabulary, self.prompt = script, vocabulary, prompt
        self.blocks = nn.ModuleList([nn.Linear(1, 1)])

    def new_cache(self):
        return [KVCache()]

    def forward(self, tokens, *, mask=None, cache=None, keep=0):
        values = torch.zeros(*tokens.shape, 1)[:, None]
        cache[0].append(values, values)
        logits = torch.zeros(*tokens.shape, self.vocabulary)
        logits[:, -1, self.script[cache[0].length - self.prompt]] = 1
        return logits[:, -keep:]


@pytest.fixture(scope="session")
def historian():
    return Historian


@pytest.fixture(scope="session")
def scripted():
    return Scripted
