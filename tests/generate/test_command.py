"""`archlab generate --model`: any checkpoint of a generative family, through the real command line."""

import json

import pytest
import torch
from tests.hub import offer
from tests.sentencepieces import as_first_released
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from archlab.config import build as build_config
from archlab.generate import command, opening
from archlab.generate.engine import generate
from archlab.generate.settings import BeamSearch, Rules, Sampling, Settings
from archlab.generate.text import TextGenerator
from archlab.interop.checkpoint import load_pretrained, save_pretrained
from archlab.interop.parity.twin import build, randomise
from archlab.interop.text import Text, load_text
from archlab.models.registry import FAMILIES, find

DECODERS = [name for name, family in FAMILIES.items() if family.kind == "decoder"]
TRANSLATORS = [name for name, family in FAMILIES.items() if family.kind == "encoder-decoder"]


def saved(folder, name, text, seed=0, **options):
    family = find(name)
    config = build_config(family.config_class, {**family.tiny, "vocab_size": 300, **options})
    model = family.model_class(config).eval()
    randomise(model, torch.Generator().manual_seed(seed))
    save_pretrained(model, folder, text=text)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, byte_level):
    return saved(tmp_path_factory.mktemp("gpt2"), "gpt2", Text(tokenizer=byte_level, bos=1, pad=0), context=64)


def expected(checkpoint, byte_level, prompt="hello", stop=(), **settings):
    model = load_pretrained(checkpoint)
    return TextGenerator(model, byte_level, Settings(**settings), stop=stop).generate([prompt])[0]


def test_options_reach_the_engine(checkpoint, byte_level, said):
    asked = {
        (): {"max_new_tokens": 60},  # what the model still reads after five tokens
        ("--max-new-tokens", 9): {"max_new_tokens": 9},
        ("--max-new-tokens", 9, "--beams", 3): {"max_new_tokens": 9, "strategy": BeamSearch(beams=3)},
        ("--max-new-tokens", 9, "--temperature", 0): {"max_new_tokens": 9},
        ("--max-new-tokens", 9, "--repetition-penalty", 1.5): {"max_new_tokens": 9, "repetition_penalty": 1.5},
        ("--max-new-tokens", 9, "--temperature", 2, "--seed", 4): {
            "max_new_tokens": 9,
            "strategy": Sampling(temperature=2.0, seed=4),
        },
        ("--max-new-tokens", 9, "--top-k", 5, "--top-p", 0.9, "--min-p", 0.01): {
            "max_new_tokens": 9,
            "strategy": Sampling(top_k=5, top_p=0.9, min_p=0.01),
        },
    }
    length = len(byte_level.encode("hello").ids)
    asked[()]["max_new_tokens"] = 64 - length + 1
    answers = {}
    for options, settings in asked.items():
        answers[options] = said("--model", checkpoint, "hello", *options)
        assert answers[options] == expected(checkpoint, byte_level, **settings)
    assert len(set(answers.values())) > 4


def test_stop_strings_and_a_draft(checkpoint, byte_level, said, tmp_path):
    draft = saved(tmp_path / "draft", "llama", Text(tokenizer=byte_level), context=64)
    whole = said("--model", checkpoint, "hello", "--max-new-tokens", 20)
    assert said("--model", checkpoint, "hello", "--max-new-tokens", 20, "--draft", draft) == whole
    assert said("--model", checkpoint, "hello", "--draft", draft, "--stop", whole[4:9]) == whole[:4]


@pytest.mark.parametrize("place", ["generation_config.json", "config.json"])
@pytest.mark.parametrize("several", [False, True])
def test_the_ids_that_end_a_text_are_read_from_the_checkpoint(byte_level, said, tmp_path, place, several, checkpoint):
    prompt = byte_level.encode("hello").ids
    tokens = generate(load_pretrained(checkpoint), [prompt], Settings(max_new_tokens=12))[0]
    end = tokens[6]
    folder = saved(tmp_path / "model", "gpt2", Text(tokenizer=byte_level), context=64)
    path = folder / place
    if place == "config.json":
        (folder / "generation_config.json").unlink()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": [299, end] if several else end}))
    first = min(index for index, token in enumerate(tokens) if token in (end, 299))
    text = byte_level.decode(prompt + tokens[:first])[len("hello") :]
    assert said("--model", folder, "hello") == text


@pytest.mark.parametrize("name", DECODERS)
def test_every_family_that_generates_runs_and_its_export_generates_the_same_in_transformers(
    name, byte_level, said, tmp_path
):
    folder = saved(tmp_path / name, name, Text(tokenizer=byte_level, bos=1, eos=(2, 7), pad=0))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.generation_config.eos_token_id == model.config.eos_token_id == [2, 7]
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<bos>", "<eos>", "<pad>")
    asked = tokenizer("hello", return_tensors="pt")
    tokens = model.generate(asked["input_ids"], attention_mask=asked["attention_mask"], max_new_tokens=9)[0]
    text = tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert said("--model", folder, "hello", "--max-new-tokens", 9) == text[len("hello") :]


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("name", TRANSLATORS)
def test_every_encoder_decoder_writes_the_target_that_its_export_writes_in_transformers(
    name, beams, byte_level, said, tmp_path
):
    rules = Rules(forbidden=(0, 40), forced_end=2, renormalise=True)
    text = Text(tokenizer=byte_level, eos=(2, 7), pad=0, start=1, rules=rules)
    folder = saved(tmp_path / name, name, text, seed=1)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSeq2SeqLM.from_pretrained(folder)
    options = ["--beams", beams] if beams > 1 else []
    written = set()
    for source in ("hello world", "the cat sat", "你", "a naïve café, more"):
        asked = tokenizer(source, return_tensors="pt")
        tokens = model.generate(
            asked["input_ids"], attention_mask=asked["attention_mask"], max_new_tokens=9, num_beams=beams
        )[0]
        expected = tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert said("--model", folder, source, "--max-new-tokens", 9, *options) == expected
        written.add(expected)
    assert len(written) > 1


@pytest.mark.parametrize("name", TRANSLATORS)
def test_a_checkpoint_as_it_was_first_released_is_downloaded_and_writes_what_transformers_writes(
    name, said, tmp_path, monkeypatch
):
    """Pickled weights, and a tokenizer of SentencePiece."""
    theirs = as_first_released(tmp_path / "released", name)
    files = {path.name: path.read_bytes() for path in (tmp_path / "released").iterdir()}
    assert "pytorch_model.bin" in files
    assert not files.keys() & {"tokenizer.json", "model.safetensors"}
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "released")
    source = offer(files, tmp_path / "downloaded", monkeypatch)
    written = set()
    for text in ("hello world", "the cat sat on the mat", "a naïve café, 你"):
        asked = theirs(text, return_tensors="pt")
        tokens = model.generate(asked["input_ids"], attention_mask=asked["attention_mask"], max_new_tokens=12)[0]
        expected = theirs.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert said("--model", source, text, "--max-new-tokens", 12).rstrip() == expected.rstrip()
        written.add(expected)
    assert len(written) > 1


def test_a_target_begins_with_the_token_that_begins_texts_where_no_other_is_named(byte_level, said, tmp_path):
    named = saved(tmp_path / "named", "t5", Text(tokenizer=byte_level, start=1))
    bos = saved(tmp_path / "bos", "t5", Text(tokenizer=byte_level, bos=1))
    other = saved(tmp_path / "other", "t5", Text(tokenizer=byte_level, start=9, bos=1))
    written = [said("--model", folder, "hello", "--max-new-tokens", 9) for folder in (named, bos, other)]
    assert written[0] == written[1] != written[2]


def test_what_an_encoder_decoder_cannot_do_is_one_line(byte_level, tmp_path, fails, checkpoint):
    folder = saved(tmp_path / "model", "t5", Text(tokenizer=byte_level, start=1))
    assert "draft: guesses how a prompt goes on" in fails("--model", folder, "hello", "--draft", checkpoint)
    assert "does not continue text here" in fails("--model", checkpoint, "hello", "--draft", folder)
    assert "compile: compiles the steps of a language model" in fails("--model", folder, "hello", "--compile")
    bare = saved(tmp_path / "bare", "t5", Text(tokenizer=byte_level))
    assert "names no decoder_start_token_id" in fails("--model", bare, "hello")


def test_tokenizer_and_tokens_survive_loading_and_saving(byte_level, tmp_path):
    rules = Rules(forbidden=(5, 6), forced_end=2, renormalise=True)
    text = Text(tokenizer=byte_level, bos=1, eos=(2,), pad=0, start=3, rules=rules)
    folder = saved(tmp_path / "one", "t5", text)
    again = load_text(folder)
    assert (again.bos, again.eos, again.pad, again.start, again.rules) == (1, (2,), 0, 3, rules)
    assert again.tokenizer.to_str() == byte_level.to_str()
    save_pretrained(load_pretrained(folder), tmp_path / "two", text=again)
    names = {path.name for path in folder.iterdir()}
    assert all((folder / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)
    assert load_text(saved(tmp_path / "bare", "gpt2", None)) == Text()


@pytest.mark.parametrize("name", ["gpt2", "t5"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_models_compute_in_the_type_that_is_asked_for(name, precision, byte_level, said, tmp_path, monkeypatch):
    start = 1 if name == "t5" else None
    folder = saved(tmp_path / name, name, Text(tokenizer=byte_level, start=start))
    computed, laid_out = [], []
    plain = TextGenerator.stream

    def stream(self, prompt):
        computed.append({(parameter.dtype, parameter.device.type) for parameter in self.model.parameters()})
        return plain(self, prompt)

    monkeypatch.setattr(TextGenerator, "stream", stream)
    monkeypatch.setattr(opening, "lay_out", lambda model, sequences: laid_out.append(sequences))
    text = said("--model", folder, "hello", "--max-new-tokens", 9, "--dtype", precision, "--device", "cpu")
    assert computed == [{(getattr(torch, precision), "cpu")}]
    assert laid_out == [1]
    model = load_pretrained(folder, dtype=getattr(torch, precision))
    writer = TextGenerator(model, byte_level, Settings(max_new_tokens=9), start=start)
    assert text == "".join(plain(writer, "hello"))


def test_a_gpu_that_is_not_there_is_named(checkpoint, fails, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "device='cuda': PyTorch sees no GPU" in fails("--model", checkpoint, "hello", "--device", "cuda")


def test_without_a_device_the_gpu_is_taken_where_there_is_one(checkpoint, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        command, "open_model", lambda source, device, precision, **_: asked.append((device, precision)) or 1 / 0
    )
    for options in ({}, {"device": "cpu", "precision": "bfloat16"}):
        with pytest.raises(ZeroDivisionError):
            command.continue_text(str(checkpoint), "hello", **options)
    assert asked == [(torch.device("cuda"), "float32"), (torch.device("cpu"), "bfloat16")]


def test_a_model_that_does_not_generate_is_told_which_do(tmp_path, fails):
    build(find("vit")).reference.save_pretrained(tmp_path)
    error = fails("--model", tmp_path, "hello")
    writing = ", ".join(DECODERS + TRANSLATORS)
    assert f"model_type 'vit' does not continue text here; the families that do: {writing}" in error
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert "model_type 'bert' does not continue text here" in fails("--model", tmp_path, "hello")


def test_a_bidirectional_decoder_is_told_the_same(tmp_path, fails, byte_level):
    folder = saved(tmp_path, "gemma", Text(tokenizer=byte_level), bidirectional=True)
    error = fails("--model", folder, "hello")
    assert f"a bidirectional model, which does not continue text here; the families that do: {DECODERS[0]}" in error


def test_what_is_missing_or_damaged_is_one_line(tmp_path, fails, byte_level, checkpoint):
    assert "no such folder" in fails("--model", "no/such/folder", "hello")
    bare = saved(tmp_path / "bare", "gpt2", None)
    assert "holds no tokenizer.json" in fails("--model", bare, "hello")
    (bare / "tokenizer.json").write_text("{")
    assert "tokenizer.json: is damaged" in fails("--model", bare, "hello")
    (bare / "generation_config.json").write_text("[]")
    assert "generation_config.json: is damaged" in fails("--model", bare, "hello")
    (bare / "generation_config.json").write_text('{"eos_token_id": "two"}')
    assert "eos_token_id='two': must be the id of a token" in fails("--model", bare, "hello")
    (bare / "generation_config.json").write_text('{"bad_words_ids": [[1, 2]]}')
    assert "bad_words_ids=[[1, 2]]: each must be a list of one id" in fails("--model", bare, "hello")
    other = saved(tmp_path / "other", "gpt2", Text(tokenizer=type(byte_level).from_str(byte_level.to_str())))
    vocabulary = json.loads((other / "tokenizer.json").read_text())
    vocabulary["model"]["vocab"]["!"], vocabulary["model"]["vocab"]['"'] = (
        vocabulary["model"]["vocab"]['"'],
        vocabulary["model"]["vocab"]["!"],
    )
    (other / "tokenizer.json").write_text(json.dumps(vocabulary))
    assert "another vocabulary" in fails("--model", checkpoint, "hello", "--draft", other)


def test_a_tokenizer_or_tokens_that_the_model_does_not_know_are_refused_in_one_line(tmp_path, fails, byte_level):
    narrow = saved(tmp_path / "narrow", "gpt2", Text(tokenizer=byte_level), vocab_size=200)
    size = byte_level.get_vocab_size()
    assert f"the tokenizer has {size} tokens, more than the model's 200" in fails("--model", narrow, "hello")
    wrong = saved(tmp_path / "wrong", "gpt2", Text(tokenizer=byte_level, bos=999))
    assert "bos_token_id=999: the model knows the ids 0 to 299" in fails("--model", wrong, "hello")
    rules = Rules(forbidden=(5, 300))
    wrong = saved(tmp_path / "rules", "gpt2", Text(tokenizer=byte_level, rules=rules))
    assert "bad_words_ids=300" in fails("--model", wrong, "hello")


def test_a_token_that_was_added_beyond_the_models_table_is_refused_only_where_a_prompt_holds_it(
    tmp_path, byte_level, said, fails
):
    tokenizer = type(byte_level).from_str(byte_level.to_str())
    tokenizer.add_special_tokens([f"<{number}>" for number in range(50)])
    folder = saved(tmp_path / "model", "gpt2", Text(tokenizer=tokenizer))
    assert said("--model", folder, "hello", "--max-new-tokens", 3) is not None
    assert "prompt: holds '<49>'" in fails("--model", folder, "hello <49>")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--top-k", 5, "--temperature", 0], "top_k=5: changes nothing at temperature 0"),
        (["--seed", 5, "--beams", 2], "seed=5: is for sampling"),
        (["--temperature", 0.5, "--beams", 2], "temperature=0.5: is for sampling"),
        (["--beams", 0], "beams=0: must be at least 1"),
        (["--top-p", 2], "top_p=2.0: must be more than 0 and at most 1"),
        (["--max-new-tokens", 0], "max_new_tokens=0"),
        (["--max-new-tokens", 200], "this model reads at most 64"),
        (["--beams", 2, "--stop", "x"], "stop='x': beam search"),
        (["--image", "cat.png"], "--image: a language model reads text"),
        (["more"], "--model: continues one prompt, not 2"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_line(checkpoint, fails, options, message):
    assert message in fails("--model", checkpoint, "hello", *options)
