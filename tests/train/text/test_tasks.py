"""Translation and sentiment in small: trained, interrupted, resumed, scored."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig as TheirConfig
from transformers import BertModel

from archlab.cli import main
from archlab.config import build
from archlab.data.text.reviews import Reviews
from archlab.data.tokenizer import TextTokenizer
from archlab.errors import UserError
from archlab.train.text import sentiment, translation
from archlab.train.text.config import SentimentConfig, TranslationConfig
from archlab.train.text.run import markdown
from archlab.train.text.sentiment import Documents, head_and_tail, train_sentiment
from archlab.train.text.translation import train_translation

CONFIGS = Path(__file__).resolve().parents[3] / "02-transformer-impl" / "configs"
NOUNS = ["man", "woman", "dog", "cat", "child", "horse"]
FRENCH = ["homme", "femme", "chien", "chat", "enfant", "cheval"]
TRAINING = {"steps": 6, "warmup": 2, "evaluate_every": 3, "resume_every": 2, "dropout": 0.1}


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny bilingual world and tiny reviews, as prepared files."""
    generator = np.random.default_rng(0)
    rows = []
    for split, count in {"train": 300, "val": 9, "test_2016_flickr": 9, "test_2017_flickr": 6}.items():
        for _ in range(count):
            words = generator.integers(0, 6, generator.integers(1, 7))
            texts = {"en": " ".join(NOUNS[i] for i in words), "fr": " ".join(FRENCH[i] for i in words)}
            rows.append({"split": split, "de": "", **texts})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "multi30k_en_fr_de.parquet")
    for name, count in (("imdb_train25k", 80), ("imdb_test5k", 120)):
        reviews = []
        for i in range(count):
            label = int(generator.integers(0, 2))
            word = ("bad", "good")[label]
            text = f"<br />a {word} film " + f"and a {word} story " * int(generator.integers(0, 12)) + f"{name} {i}"
            reviews.append({"text": text, "label": label})
        pq.write_table(pa.Table.from_pylist(reviews), tmp_path / f"{name}.parquet")
    monkeypatch.setenv("ARCHLAB_DATA", str(tmp_path))
    return tmp_path


def translation_config(*overrides: str) -> TranslationConfig:
    raw = {
        "vocab_size": 290,
        "batch_tokens": 200,
        "max_target": 40,
        "transformer": {"width": 16, "depth": 1, "heads": 2, "feed_forward": 32},
        "lstm": {"width": 16, "depth": 2},
        "training": TRAINING,
    }
    return build(TranslationConfig, raw, overrides)


def sentiment_config(*overrides: str) -> SentimentConfig:
    raw = {
        "encoder": {"width": 16, "depth": 1, "heads": 2, "feed_forward": 32},
        "vocab_size": 300,
        "max_tokens": 32,
        "batch_tokens": 256,
        "training": TRAINING,
    }
    return build(SentimentConfig, raw, overrides)


def comparable(metrics: dict[str, Any]) -> dict[str, Any]:
    curve = [{key: value for key, value in point.items() if key != "seconds"} for point in metrics["curve"]]
    left_out = ("seconds", "machine", "commit")
    return {key: value for key, value in metrics.items() if key not in left_out} | {"curve": curve}


RUNS: dict[str, tuple[Callable[..., Any], Callable[[], Any], Any]] = {
    "transformer": (
        train_translation,
        lambda: translation_config("training.average={kind: checkpoints, every: 2, last: 2}"),
        translation.Sentences,
    ),
    "lstm": (train_translation, lambda: translation_config("architecture=lstm"), translation.Sentences),
    "lstm-attention": (
        train_translation,
        lambda: translation_config("architecture=lstm-attention", "training.accumulate=2"),
        translation.Sentences,
    ),
    "sentiment": (train_sentiment, lambda: sentiment_config("training.average.kind=ema"), sentiment.Documents),
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_an_interrupted_and_resumed_run_equals_an_uninterrupted_one(
    run: tuple[Callable[..., Any], Callable[[], Any], Any],
    prepared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train, make, batches = run
    whole = train(make(), tmp_path / "whole")
    plain, asked = batches.__call__, []

    def interrupting(self: Any, number: int) -> Any:
        asked.append(number)
        if number == 4 and 3 in asked:  # the fourth batch of training, not of an evaluation
            signal.raise_signal(signal.SIGINT)
        return plain(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(batches, "__call__", interrupting)
        with pytest.raises(KeyboardInterrupt):
            train(make(), tmp_path / "resumed")
    assert (tmp_path / "resumed" / "state.pt").exists()
    torch.manual_seed(99)
    resumed = train(make(), tmp_path / "resumed")
    assert comparable(resumed) == comparable(whole)
    tensors, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("resumed", "whole"))
    assert tensors.keys() == expected.keys()
    assert [name for name, tensor in expected.items() if not torch.equal(tensors[name], tensor)] == []


@pytest.mark.parametrize("architecture", ["transformer", "lstm-attention"])
def test_a_translator_learns_a_dictionary_by_heart(architecture: str, prepared: Path, tmp_path: Path) -> None:
    config = translation_config(
        f"architecture={architecture}",
        "label_smoothing=0",
        "training={steps: 400, warmup: 10, evaluate_every: 400, learning_rate: 1e-2, dropout: 0}",
        "transformer={width: 32, depth: 1, heads: 2, feed_forward: 64, pre_norm: true}",
        "lstm={width: 48, depth: 1}",
    )
    metrics = train_translation(config, tmp_path / "run")
    assert metrics["curve"][-1]["scores"]["loss"] < 0.5 * metrics["curve"][0]["scores"]["loss"]
    assert metrics["bleu"]["test_2016_flickr"]["bleu"] > 20


def test_translation_reports_both_tests_with_signatures_and_by_length(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = train_translation(translation_config(), tmp_path / "run")
    assert metrics["bleu"].keys() == {"test_2016_flickr", "test_2017_flickr"}
    test = metrics["bleu"]["test_2016_flickr"]
    assert "tok:13a" in test["signature"]
    assert "case:lc" in test["signature_lowercased"]
    assert "Moses" in test["signature_tokenised"]
    assert test["sentences"] == 9
    assert list(test["bleu_by_words_of_the_source"]) == ["short", "medium", "long"]
    assert test["signature"] in capsys.readouterr().out
    row = metrics["table"][-1]
    assert (row["model"], row["test_2016_flickr"]) == ("Transformer", test["bleu"])
    assert row["test_2016_flickr, tokenised"] == test["bleu_tokenised"]
    assert metrics["data_digests"].keys() == {"train", "validation", "test_2016_flickr", "test_2017_flickr"}
    assert metrics["epochs"] == pytest.approx(6 / metrics["batches_per_epoch"])
    assert (tmp_path / "run" / "tokenizer.json").exists()
    assert (tmp_path / "run" / "curve.png").exists()


def test_sentiment_stands_beside_its_floors(prepared: Path, tmp_path: Path) -> None:
    config = sentiment_config("training={steps: 60, warmup: 5, evaluate_every: 30, learning_rate: 5e-3}")
    metrics = train_sentiment(config, tmp_path / "run")
    names = ["majority", "TF-IDF and logistic regression", "Transformer, from scratch"]
    assert [row["model"] for row in metrics["table"]] == names
    majority, linear, ours = (row["test accuracy"] for row in metrics["table"])
    assert majority < 0.6
    assert linear > 0.9
    assert ours > 0.9
    assert all(row["low"] <= row["test accuracy"] <= row["high"] for row in metrics["table"])
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == metrics
    assert "| majority | – |" in (tmp_path / "run" / "card.md").read_text()


def test_the_recipe_for_sst2_runs_end_to_end_in_the_official_splits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").mkdir()
    counts = {"train": 60, "dev": 11, "test": 13}
    for split, count in counts.items():
        lines = [f"a {('bad', 'good')[i % 2]} film number {split} {i}\t{i % 2}" for i in range(count)]
        (tmp_path / "text" / f"sst2_{split}.tsv").write_text("\n".join(lines) + "\n")
    monkeypatch.setenv("ARCHLAB_DATA", str(tmp_path))
    seen = []
    plain = Documents.__init__

    def counted(self: Documents, reviews: Reviews, *arguments: Any) -> None:
        seen.append(len(reviews.texts))
        plain(self, reviews, *arguments)

    monkeypatch.setattr(Documents, "__init__", counted)
    tiny = ["encoder={width: 16, depth: 1, heads: 2, feed_forward: 32}", "vocab_size=300", "max_tokens=32"]
    tiny += ["batch_tokens=128", "training.steps=6", "training.warmup=2", "training.evaluate_every=3"]
    assert main(["train", str(CONFIGS / "sentiment-sst2.yaml"), *tiny, "--out", str(tmp_path / "run")]) == 0
    assert seen == list(counts.values())
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["data_digests"].keys() == {"train", "validation", "test"}
    assert metrics["test_accuracy"]["Transformer, from scratch"]["n"] == 13
    card = (tmp_path / "run" / "card.md").read_text()
    assert "floor that a model must beat on the test split: logistic regression on TF-IDF 81.3 %." in card


def test_validation_reviews_are_not_trained_on_and_equal_texts_stay_together() -> None:
    reviews = Reviews([f"text {i % 50}" for i in range(200)], [i % 2 for i in range(200)])
    train, validation = sentiment._cut(reviews, 0.3, 0)
    assert len(train.texts) + len(validation.texts) == 200
    assert validation.texts
    assert not set(train.texts) & set(validation.texts)


def test_head_and_tail_keep_both_ends_and_the_right_number() -> None:
    assert head_and_tail([1, 2, 3], 4) == [1, 2, 3]
    assert head_and_tail(list(range(10)), 4) == [0, 1, 8, 9]
    assert head_and_tail(list(range(10)), 5) == [0, 1, 2, 8, 9]
    assert head_and_tail(list(range(10)), 1) == [0]


def test_a_long_review_has_exactly_as_many_tokens_as_allowed() -> None:
    tokenizer = TextTokenizer.train(["a good film"], 270)
    documents = Documents(Reviews(["good film " * 50, "bad"], [1, 0]), tokenizer, 32, 64, 0)
    assert len(documents.rows[0]) == 32
    assert documents.rows[0][0] == tokenizer.bos_id
    assert documents.rows[0][-1] == tokenizer.eos_id


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    """A BERT of transformers with a tokenizer of its own."""
    folder = tmp_path / "bert"
    torch.manual_seed(1)
    tokenizer = TextTokenizer.train(["a good film and a bad story"], 280)
    config = TheirConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save(folder / "tokenizer.json")
    return folder


def test_sentiment_starts_from_a_pretrained_bert(prepared: Path, pretrained: Path, tmp_path: Path) -> None:
    config = sentiment_config(f"pretrained={pretrained}", "training.attention_dropout=0.1")
    metrics = train_sentiment(config, tmp_path / "run")
    assert metrics["table"][-1]["model"] == "BERT, pretrained"
    assert "pretrained" in metrics["data_digests"]
    tokenizer, encoder, width, digests = sentiment._encoder(config, Reviews(["a"], [0]))
    theirs = BertModel.from_pretrained(pretrained).eval()
    ids = torch.tensor([tokenizer.tokens(["a good film"])[0]])
    mask = torch.ones_like(ids).bool()
    torch.testing.assert_close(encoder(ids, mask=mask), theirs(ids, mask).last_hidden_state, atol=1e-5, rtol=0)
    assert digests["pretrained"] == metrics["data_digests"]["pretrained"]
    assert width == 16


def test_a_pretrained_folder_that_is_none_is_refused(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="checkpoint"):
        train_sentiment(sentiment_config(f"pretrained={tmp_path}"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_pretrained_model_may_come_with_an_installed_package(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "brings_a_bert"
    package.mkdir()
    (package / "__init__.py").touch()
    pretrained.rename(package / "model")
    monkeypatch.syspath_prepend(tmp_path)
    config = sentiment_config("pretrained=package:brings_a_bert/model")
    tokenizer, encoder, _, _ = sentiment._encoder(config, Reviews(["a"], [0]))
    assert tokenizer.vocab_size == encoder.token_embedding.weight.shape[0]  # type: ignore[index, union-attr]


def test_a_pretrained_model_with_a_tokenizer_of_another_is_refused(
    prepared: Path, pretrained: Path, tmp_path: Path
) -> None:
    other = TextTokenizer.train(["the quick brown fox jumps over the lazy dog and comes back for more"], 300)
    other.save(pretrained / "tokenizer.json")
    with pytest.raises(UserError, match=f"the tokenizer has {other.vocab_size} tokens, more than the model's"):
        train_sentiment(sentiment_config(f"pretrained={pretrained}"), tmp_path / "run")


def test_a_table_shows_what_is_missing_and_counts_with_separators() -> None:
    table = markdown(
        [{"model": "a", "parameters": None, "loss": 1.23456}, {"model": "b", "parameters": 1234567, "loss": 1.0}]
    )
    assert table.splitlines()[2:] == ["| a | – | 1.235 |", "| b | 1,234,567 | 1 |"]
