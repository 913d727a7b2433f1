"""`archlab generate --model RUN`: models of text that the project trained, through the real command line."""

import json
from functools import cache

import pytest
import torch
from safetensors.torch import load_model

from archlab.cli import main
from archlab.config import CompareConfig, PretrainConfig, RunConfig, build, to_yaml
from archlab.data.text.batch import Pairs, pad
from archlab.data.tokenizer import TextTokenizer
from archlab.evaluate.translation import search, translate
from archlab.generate.opening import open_model
from archlab.models.gpt2 import GPT2, GPT2Config
from archlab.objectives.sequence import Translation
from archlab.train.checkpoint import save_checkpoint
from archlab.train.recipes import RECIPES, recipe_of
from archlab.train.text.config import CharactersConfig, SentimentConfig, TranslationConfig
from archlab.train.text.translation import build_translator

TEXT = "the cat sat on the mat;\nand the dog sat on the log.\n" * 40
SIZE = {"context": 48, "width": 16, "depth": 2, "heads": 2, "feed_forward": 32}
PAIRS = {"a dog": "un chien", "the cat is on the mat": "le chat est sur le tapis", "dogs": "des chiens"}


@pytest.fixture(scope="module")
def characters(tmp_path_factory):
    """`characters(seed, text)`: a run that was trained for a few steps."""
    folder = tmp_path_factory.mktemp("characters")

    def trained(seed, text=TEXT):
        run = folder / f"{seed}-{len(text)}"
        if not run.exists():
            (folder / "text.txt").write_text(text)
            training = {"steps": 30, "warmup": 2, "evaluate_every": 30, "learning_rate": 0.01}
            recipe = {
                "recipe": "characters",
                "source": str(folder / "text.txt"),
                "model": SIZE,
                "ngram": 2,
                "seed": seed,
            }
            (folder / "recipe.yaml").write_text(json.dumps(recipe | {"training": training}))  # JSON is YAML
            assert main(["train", str(folder / "recipe.yaml"), "--out", str(run)]) == 0
        return run

    return trained


def framed(tokenizer, texts):
    return [[tokenizer.bos_id, *ids, tokenizer.eos_id] for ids in tokenizer.tokens(list(texts))]


@pytest.fixture(scope="module")
def translation(tmp_path_factory):
    """`translation(architecture)`: a run that was shown three sentences often, and its model and tokenizer."""
    folder = tmp_path_factory.mktemp("translation")
    tokenizer = TextTokenizer.train([*PAIRS, *PAIRS.values()], 280)
    batch = Pairs(
        *(part for texts in (PAIRS, PAIRS.values()) for part in pad(framed(tokenizer, texts), tokenizer.pad_id))
    )

    @cache
    def made(architecture):
        sizes = {"width": 16, "depth": 2}
        raw = {"architecture": architecture, "transformer": sizes | {"heads": 2, "feed_forward": 32}, "lstm": sizes}
        config = build(TranslationConfig, raw | {"vocab_size": 280, "max_target": 24})
        torch.manual_seed(0)
        model = build_translator(config, tokenizer.vocab_size)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01 if architecture == "transformer" else 0.03)
        for _ in range(200):
            optimizer.zero_grad()
            Translation()(model, batch).loss.backward()
            optimizer.step()
        save_checkpoint(folder / architecture, model, config, tokenizer, {}, "a card")
        return folder / architecture, model.eval(), tokenizer

    return made


def continued(run, prompt, count):
    """The likeliest characters one after the other, read anew every time."""
    symbols = sorted(set(TEXT))
    model = GPT2(GPT2Config(vocab_size=len(symbols), **SIZE)).eval()
    load_model(model, run / "model.safetensors")
    ids = [symbols.index(symbol) for symbol in prompt]
    with torch.inference_mode():
        for _ in range(count):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return "".join(symbols[i] for i in ids[len(prompt) :])


def test_a_run_of_characters_goes_on_with_the_likeliest_ones(characters, said):
    run = characters(0)
    for prompt in ("the c", "dog\nsat"):
        assert said("--model", run, prompt, "--max-new-tokens", 20) == continued(run, prompt, 20)
    assert said("--model", run, "the c") == continued(run, "the c", 48 - 5 + 1)  # as far as it can read


def test_options_of_generation_work_on_a_run_of_characters(characters, said):
    run = characters(0)
    plain = said("--model", run, "the ", "--max-new-tokens", 30)
    sampled = [
        said("--model", run, "the ", "--max-new-tokens", 30, "--temperature", 2, "--seed", seed) for seed in (1, 1, 2)
    ]
    assert sampled[0] == sampled[1] != sampled[2]
    assert plain not in sampled
    assert (
        said("--model", run, "the ", "--max-new-tokens", 30, "--stop", plain[3:5]) == plain[: plain.index(plain[3:5])]
    )
    assert said("--model", run, "the ", "--max-new-tokens", 30, "--draft", characters(1)) == plain
    assert len(said("--model", run, "the ", "--max-new-tokens", 30, "--beams", 3)) == 30
    assert said("--model", run, "the ", "--max-new-tokens", 30, "--dtype", "bfloat16", "--device", "cpu")


def test_characters_come_one_by_one(characters, monkeypatch, capsys):
    written = []
    monkeypatch.setattr("builtins.print", lambda *parts, **_: written.append("".join(parts)))
    assert main(["generate", "--model", str(characters(0)), "the ", "--max-new-tokens", "9"]) == 0
    assert [len(piece) for piece in written] == [*[1] * 9, 0]


def test_an_empty_prompt_begins_a_line_where_the_text_has_lines(characters, said, fails):
    run = characters(0)
    assert said("--model", run, "", "--max-new-tokens", 9) == continued(run, "\n", 9)
    assert "prompt of 0 tokens" in fails("--model", characters(0, TEXT.replace("\n", " ") * 2), "")


def test_what_a_run_of_characters_cannot_read_is_one_line(characters, fails):
    run = characters(0)
    assert "prompt: holds 'z', which the text that this run learned has not" in fails("--model", run, "the zoo")
    assert "this model reads at most 48" in fails("--model", run, "the " * 20)
    assert "another vocabulary" in fails("--model", run, "the ", "--draft", characters(0, TEXT.replace("\n", " ") * 2))


def test_a_run_of_characters_whose_symbols_are_lost_is_one_line(characters, fails, tmp_path):
    for name in ("config.yaml", "model.safetensors", "card.md"):
        (tmp_path / name).write_bytes((characters(0) / name).read_bytes())
    (tmp_path / "metrics.json").write_text("{}")
    assert "metrics.json names no symbols" in fails("--model", tmp_path, "the ")
    (tmp_path / "metrics.json").write_text('{"symbols": "abc"}')
    assert "its weights do not fit" in fails("--model", tmp_path, "the ")
    (tmp_path / "model.safetensors").unlink()
    assert "model.safetensors is missing; give the folder of a finished run" in fails("--model", tmp_path, "the ")


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("architecture", ["transformer", "lstm", "lstm-attention"])
def test_a_run_of_translation_writes_what_it_was_tested_with(architecture, beams, translation, said):
    run, model, tokenizer = translation(architecture)
    sources = [*PAIRS, "the dog", "cat"]
    decode = search(tokenizer, 20, beams)
    expected = translate(model, framed(tokenizer, sources), tokenizer, decode, torch.device("cpu"))
    options = ["--beams", beams] if beams > 1 else []
    found = [said("--model", run, source, "--max-new-tokens", 20, *options) for source in sources]
    assert [text.strip() for text in found] == expected  # all spaces at the ends are cut off there
    if architecture == "transformer":
        assert found[: len(PAIRS)] == list(PAIRS.values())


def test_options_of_generation_work_on_a_run_of_translation(translation, said, fails):
    run, _, _ = translation("transformer")
    plain = said("--model", run, "a dog")
    sampled = [said("--model", run, "a dog", "--temperature", 3, "--seed", seed) for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]
    assert plain not in sampled
    assert said("--model", run, "a dog", "--stop", plain[3:5]) == plain[: plain.index(plain[3:5])]
    assert "this is an encoder-decoder" in fails("--model", run, "a dog", "--compile")


def test_a_users_special_tokens_are_text_to_a_run_of_translation(translation):
    run, _, tokenizer = translation("transformer")
    opened = open_model(str(run), torch.device("cpu"))
    assert opened.tokenizer.encode("a[EOS] dog").ids == framed(tokenizer, ["a[EOS] dog"])[0]
    assert opened.tokenizer.encode("a[EOS] dog").ids.count(tokenizer.eos_id) == 1


def test_what_a_run_of_translation_cannot_do_is_one_line(translation, characters, fails):
    run, _, _ = translation("transformer")
    assert "this model reads at most 24" in fails("--model", run, "the cat sat on the mat " * 9)
    assert "translates, and continues no text" in fails("--model", characters(0), "the ", "--draft", run)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (RunConfig(), "looks at images: archlab generate {run} --image FILE"),
        (CompareConfig(), "is a comparison of arms, which look at images: archlab generate {run}/runs/NAME --image"),
        (PretrainConfig(), "is a vision encoder: train an arm with encoder.weights={run}"),
        (SentimentConfig(), "judges texts and writes none: archlab serve {run}"),
    ],
)
def test_another_run_is_told_what_it_is_and_what_reads_it(config, message, tmp_path, fails):
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert f"run {tmp_path}: {message.format(run=tmp_path)}" in fails("--model", tmp_path, "hello")


def test_a_folder_without_model_is_one_line(tmp_path, fails):
    assert "config.json is missing" in fails("--model", tmp_path, "hello")


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_is_known_by_its_configuration(name, tmp_path):
    configs = {CharactersConfig: "characters", TranslationConfig: "translation", SentimentConfig: "sentiment"}
    configs |= {RunConfig: "arm", PretrainConfig: "pretrain"}
    kind = next(kind for kind, recipe in configs.items() if recipe == name)
    (tmp_path / "config.yaml").write_text(to_yaml(kind()))
    assert recipe_of(tmp_path) == name
    (tmp_path / "config.yaml").write_text(to_yaml(kind()) + "older: 1\n")  # a key that is known no longer
    assert recipe_of(tmp_path) == name
    (tmp_path / "config.yaml").write_text("steps: 4\n")
    assert recipe_of(tmp_path) is None
