"""Compiled steps choose the tokens that plain ones choose."""

import pytest
import torch

from archlab.errors import UserError
from archlab.generate import compiled
from archlab.generate.compiled import CompiledDecoder, has_compiler
from archlab.generate.engine import generate
from archlab.generate.settings import BeamSearch, Settings


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
def test_compiled_steps_choose_the_same_tokens_and_are_compiled_once_per_kind_of_batch(twins):
    twin = twins("llama", 0)
    fast = CompiledDecoder(twin.model)
    counter = torch._dynamo.utils.counters["frames"]
    counter.clear()
    for prompts in ([[5, 9, 2]], [[7, 1, 1, 4]], [[3]]):
        settings = Settings(max_new_tokens=8)
        assert generate(fast, prompts, settings) == generate(twin.model, prompts, settings)
    assert counter["ok"] == 1  # one compilation for every length
    settings = Settings(max_new_tokens=8, strategy=BeamSearch(beams=3))
    prompts = [[5, 9, 2], [7]]
    assert generate(fast, prompts, settings) == generate(twin.model, prompts, settings)


def test_without_a_compiler_one_line_says_so(twins, monkeypatch):
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"compile: needs a C\+\+ compiler"):
        CompiledDecoder(twins("gpt2", 0).model)
