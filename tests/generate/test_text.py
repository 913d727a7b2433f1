"""Text generation: streaming equals the whole, stop strings cut across tokens, batches equal single prompts."""

import re

import pytest
import torch

from archlab.config import build
from archlab.errors import UserError
from archlab.generate.engine import generate
from archlab.generate.settings import BeamSearch, Sampling, Settings
from archlab.generate.text import TextGenerator
from archlab.interop.parity.twin import randomise
from archlab.models.registry import find


def made(name, seed):
    family = find(name)
    config = build(family.config_class, {**family.tiny, "vocab_size": 300, "context": 96})
    model = family.model_class(config).eval()
    randomise(model, torch.Generator().manual_seed(seed))
    return model


@pytest.fixture(scope="module")
def gpt2():
    return made("gpt2", 0)


PROMPTS = ["hello", "the cat sat on", "你"]


@pytest.mark.parametrize(
    "strategy", [None, Sampling(temperature=2.0, seed=1), BeamSearch(beams=3)], ids=["greedy", "sampling", "beams"]
)
def test_the_pieces_add_up_to_the_text_of_the_tokens(gpt2, byte_level, strategy):
    settings = Settings(max_new_tokens=40, strategy=strategy)
    writer = TextGenerator(gpt2, byte_level, settings)
    pieces = list(writer.stream("hello"))
    assert all(pieces)
    prompt = byte_level.encode("hello").ids
    tokens = generate(gpt2, [prompt], settings)[0]
    assert "".join(pieces) == byte_level.decode(prompt + tokens)[len("hello") :]
    assert writer.generate(["hello"]) == ["".join(pieces)]


@pytest.mark.parametrize("strategy", [None, BeamSearch(beams=2)], ids=["greedy", "beams"])
def test_a_batch_gives_what_each_prompt_gives_alone(gpt2, byte_level, strategy):
    writer = TextGenerator(gpt2, byte_level, Settings(max_new_tokens=20, strategy=strategy))
    assert writer.generate(PROMPTS) == [writer.generate([prompt])[0] for prompt in PROMPTS]


def test_a_stop_string_is_found_across_tokens_and_ends_only_its_own_text(historian, byte_level):
    table = torch.randn(101, 300, generator=torch.Generator().manual_seed(0))
    table[:, [not byte_level.decode([token]).isascii() for token in range(300)]] -= 100  # says what can be read
    model, settings = historian(table), Settings(max_new_tokens=40)
    whole = TextGenerator(model, byte_level, settings).generate(PROMPTS)
    # The first readable stretch, which the model said in several tokens, and where it begins.
    stop = next(found for found in re.findall("[!-~]{3}", whole[0]) if whole[0].find(found) > 0)
    assert len(byte_level.encode(stop).ids) > 1
    writer = TextGenerator(model, byte_level, settings, stop=[stop, "never said"])
    expected = [text.split(stop)[0] for text in whole]
    assert 0 < len(expected[0]) < len(whole[0])
    assert writer.generate(PROMPTS) == expected
    assert ["".join(writer.stream(prompt)) for prompt in PROMPTS] == expected


def test_a_stop_string_ends_the_work_too(byte_level, scripted):
    ids, prompt = byte_level.encode("hello world, the end of it all").ids, byte_level.encode("a").ids
    model = scripted(ids, 300, len(prompt))
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    writer = TextGenerator(model, byte_level, Settings(max_new_tokens=len(ids)), stop=["the end"])
    assert "".join(writer.stream("a")) == "hello world, "
    assert len(calls) < len(ids) - 5


def test_an_end_token_ends_the_text_and_is_not_shown(byte_level, scripted):
    ids = [*byte_level.encode("hello").ids, 2, *byte_level.encode("hidden").ids]
    prompt = byte_level.encode("a").ids
    for stop in ([], ["helloX"]):  # with a stop string that has begun when the text ends
        writer = TextGenerator(scripted(ids, 300, len(prompt)), byte_level, Settings(eos=(2,)), stop=stop)
        assert "".join(writer.stream("a")) == "hello"
        assert writer.generate(["a"]) == ["hello"]


def test_a_draft_changes_nothing_but_the_speed(gpt2, byte_level):
    settings = Settings(max_new_tokens=20)
    expected = TextGenerator(gpt2, byte_level, settings).generate(PROMPTS)
    writer = TextGenerator(gpt2, byte_level, settings, draft=made("llama", 1))
    assert writer.generate(PROMPTS) == expected


def test_an_empty_prompt_begins_with_the_token_that_begins_texts_or_is_refused(gpt2, byte_level):
    settings = Settings(max_new_tokens=5)
    assert TextGenerator(gpt2, byte_level, settings, bos=1).encode("") == [1]
    with pytest.raises(UserError, match="prompt of 0 tokens"):
        TextGenerator(gpt2, byte_level, settings).generate([""])


def test_stop_strings_that_cannot_work_are_refused(gpt2, byte_level):
    with pytest.raises(UserError, match="stop=''"):
        TextGenerator(gpt2, byte_level, Settings(), stop=["a", ""])
    with pytest.raises(UserError, match="stop='a': beam search"):
        TextGenerator(gpt2, byte_level, Settings(strategy=BeamSearch()), stop=["a"])
