"""Compiled steps choose the tokens that plain ones choose."""

import string
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch
from tokenizers import Tokenizer, decoders, models

from archlab.errors import UserError
from archlab.generate import compiled
from archlab.generate.compiled import CompiledDecoder, has_compiler
from archlab.generate.engine import generate
from archlab.generate.layout import lay_out
from archlab.generate.settings import BeamSearch, Settings
from archlab.interop.checkpoint import save_pretrained
from archlab.interop.parity.twin import build
from archlab.interop.text import Text
from archlab.models.registry import FAMILIES, find

DECODERS = [name for name, family in FAMILIES.items() if family.kind == "decoder"]


def compiled_frames(name: str, beams: int) -> tuple[int, list[str]]:
    """Generate with compiled and plain steps of a family's tiny model, compare, and count the programs that single
    prompts took, and where a program broke in two."""
    model = build(find(name)).model
    lay_out(model)
    fast = CompiledDecoder(model)
    settings = Settings(max_new_tokens=12)
    for prompts in ([[5, 9, 2]], [[7, 1, 1, 4]], [[3]]):
        assert generate(fast, prompts, settings) == generate(model, prompts, settings)
    counters = torch._dynamo.utils.counters
    frames, breaks = counters["frames"]["total"], list(counters["graph_break"])
    assert counters["frames"]["ok"] == frames  # none was given up
    if beams > 1:
        settings = Settings(max_new_tokens=8, strategy=BeamSearch(beams=beams))
        prompts = [[5, 9, 2], [7]]
        assert generate(fast, prompts, settings) == generate(model, prompts, settings)
    return frames, breaks


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
@pytest.mark.parametrize("name", DECODERS)
def test_compiled_steps_choose_the_same_tokens_and_are_compiled_once_for_every_length(name):
    """In a process of its own: what other tests left behind decides how often the compiler runs."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        frames, breaks = pool.submit(compiled_frames, name, 3 if name == "llama" else 1).result()
    assert breaks == []
    # A window is another program until it is full, in two kinds of layers.
    assert frames <= 4 if name == "gemma" else frames == 1


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
def test_the_command_compiles_and_says_the_same(tmp_path):
    symbols = string.printable[:61]  # as many as the model knows
    tokenizer = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(symbols)}, []))
    tokenizer.decoder = decoders.Fuse()
    save_pretrained(build(find("llama")).model, tmp_path, text=Text(tokenizer=tokenizer))
    command = [sys.executable, "-m", "archlab", "generate", "--model", str(tmp_path), "hello", "--max-new-tokens", "9"]
    said = [
        subprocess.run([*command, *options], capture_output=True, text=True, check=True).stdout
        for options in ([], ["--compile"])
    ]
    assert said[0] == said[1]
    assert len(said[0]) > 5


def test_without_a_compiler_one_line_says_so(twins, monkeypatch):
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"compile: needs a C\+\+ compiler"):
        CompiledDecoder(twins("gpt2", 0).model)
