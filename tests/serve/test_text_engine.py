"""Models of text answer as the recipes that trained them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from archlab.cli import main
from archlab.data.text.reviews import Reviews
from archlab.errors import UserError
from archlab.evaluate.translation import search, translate
from archlab.serve.opening import open_engine
from archlab.train.checkpoint import load_checkpoint
from archlab.train.text.config import SentimentConfig, TranslationConfig
from archlab.train.text.sentiment import Documents, build_classifier, predict
from archlab.train.text.translation import build_translator


def test_translations_are_those_of_the_run_and_right(text_run: Callable[[str], Path]) -> None:
    folder = text_run("translation")
    engine: Any = open_engine(folder)
    texts = ["dog cat", "a", "man woman man child", "horse"]
    checkpoint = load_checkpoint(folder, TranslationConfig)
    assert checkpoint.tokenizer is not None
    model = build_translator(checkpoint.config, checkpoint.tokenizer.vocab_size)
    checkpoint.load_into(model)
    ids, mask = checkpoint.tokenizer.encode(texts, 40)
    sources = [row[real].tolist() for row, real in zip(ids, mask, strict=True)]
    decode = search(checkpoint.tokenizer, 40, checkpoint.config.beams, checkpoint.config.length_penalty)
    expected = translate(model.eval(), sources, checkpoint.tokenizer, decode, torch.device("cpu"))
    assert engine.translate(texts) == expected
    assert expected[0] == "chien chat"
    assert engine.translate(texts[:1]) == expected[:1]
    assert (engine.about.arm, engine.about.labels) == ("translation", ("en", "fr"))
    engine.probe()


def test_the_command_line_translates_as_the_service(text_run: Callable[[str], Path], capsys: Any) -> None:
    folder = text_run("translation")
    beams = load_checkpoint(folder, TranslationConfig).config.beams
    for text in ("dog cat", "man woman man child"):
        capsys.readouterr()
        assert main(["generate", "--model", str(folder), text, "--beams", str(beams)]) == 0
        assert [capsys.readouterr().out.strip()] == open_engine(folder).translate([text])  # type: ignore[attr-defined]


def test_sentiments_are_those_of_the_run_and_right(text_run: Callable[[str], Path]) -> None:
    folder = text_run("sentiment")
    engine: Any = open_engine(folder, "torch")
    texts = ["a bad film", "a good film", "a good film<br />" + "and a good story " * 30]
    checkpoint = load_checkpoint(folder, SentimentConfig)
    assert checkpoint.tokenizer is not None
    model = build_classifier(checkpoint.config, checkpoint.tokenizer.vocab_size)
    checkpoint.load_into(model)
    reviews = Reviews([text.replace("<br />", " ") for text in texts], [0, 1, 1])
    documents = Documents(reviews, checkpoint.tokenizer, 32, 256, 0)
    expected = predict(model.eval(), documents, torch.device("cpu")).softmax(-1).numpy()
    found = engine.sentiment(texts)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.argmax(1).tolist() == [0, 1, 1]
    assert engine.about.labels == ("negative", "positive")
    engine.probe()


@pytest.mark.parametrize("backend", ["onnx", "onnx-int8"])
def test_models_of_text_are_served_in_torch_alone(text_run: Callable[[str], Path], backend: Any) -> None:
    with pytest.raises(UserError, match="are served in torch"):
        open_engine(text_run("sentiment"), backend)


@pytest.mark.parametrize("content", [None, "- a list\n", "steps: 4\n"])
def test_a_folder_that_holds_no_run_is_refused_in_one_line(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(UserError):
        open_engine(tmp_path)
