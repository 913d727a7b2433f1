"""Compiled steps choose the tokens that plain ones choose."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch

from archlab.errors import UserError
from archlab.generate import compiled
from archlab.generate.compiled import CompiledDecoder, has_compiler
from archlab.generate.engine import generate
from archlab.generate.layout import lay_out
from archlab.generate.settings import BeamSearch, Settings
from archlab.interop.parity.twin import build
from archlab.models.registry import find


def compiled_frames() -> int:
    """Generate with compiled and plain steps, compare, and count the compilations of single prompts."""
    model = build(find("llama")).model
    lay_out(model)
    fast = CompiledDecoder(model)
    counter = torch._dynamo.utils.counters["frames"]
    settings = Settings(max_new_tokens=8)
    for prompts in ([[5, 9, 2]], [[7, 1, 1, 4]], [[3]]):
        assert generate(fast, prompts, settings) == generate(model, prompts, settings)
    frames = counter["ok"]
    settings = Settings(max_new_tokens=8, strategy=BeamSearch(beams=3))
    prompts = [[5, 9, 2], [7]]
    assert generate(fast, prompts, settings) == generate(model, prompts, settings)
    return frames


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
def test_compiled_steps_choose_the_same_tokens_and_are_compiled_once_per_kind_of_batch():
    """In a process of its own: what other tests left behind decides how often the compiler runs."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(compiled_frames).result() == 1  # one compilation for every length


def test_without_a_compiler_one_line_says_so(twins, monkeypatch):
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"compile: needs a C\+\+ compiler"):
        CompiledDecoder(twins("gpt2", 0).model)
