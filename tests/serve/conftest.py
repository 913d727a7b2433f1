"""Tiny trained runs as engines, and one live service over them for all tests that leave it as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.serve.live import Live, serving

from archlab.config import build
from archlab.export.manifest import Manifest
from archlab.serve.opening import open_engine
from archlab.serve.vision_engine import VisionEngine
from archlab.train.setup import Setup
from archlab.train.text.characters import train_characters
from archlab.train.text.config import CharactersConfig, SentimentConfig, TranslationConfig
from archlab.train.text.sentiment import train_sentiment
from archlab.train.text.translation import train_translation

NOUNS = {"man": "homme", "woman": "femme", "dog": "chien", "cat": "chat", "child": "enfant", "horse": "cheval"}
VERSE = "To be, or not to be, that is the question:\n" * 40
SIZE = {"width": 32, "depth": 1, "heads": 2, "feed_forward": 64}
TRAINING = {"steps": 120, "warmup": 5, "evaluate_every": 120, "learning_rate": 1e-2}


@pytest.fixture
def engine(talkative_run: Callable[[str], Path]) -> Callable[[str], VisionEngine]:
    """`engine(arm)`: a new engine in torch."""

    def opened(arm: str) -> VisionEngine:
        found = open_engine(talkative_run(arm), "torch")
        assert isinstance(found, VisionEngine)
        return found

    return opened


@pytest.fixture(scope="session")
def pictures(tiny_setup: Setup) -> list[np.ndarray]:
    """Seven images of the test split."""
    return list(tiny_setup.dataset["test"].images[:7])


@pytest.fixture(scope="session")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """`text_run("translation" | "sentiment" | "characters")`: folder of a run that was trained on a tiny world."""
    data, generator = tmp_path_factory.mktemp("texts"), np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for split, count in {"train": 300, "val": 9, "test_2016_flickr": 9, "test_2017_flickr": 6}.items():
        for _ in range(count):
            words = generator.choice(list(NOUNS), generator.integers(1, 7))
            french = " ".join(NOUNS[word] for word in words)
            rows.append({"split": split, "en": " ".join(words), "fr": french, "de": ""})
    pq.write_table(pa.Table.from_pylist(rows), data / "multi30k_en_fr_de.parquet")
    for name, count in (("imdb_train25k", 80), ("imdb_test5k", 40)):
        labels = generator.integers(0, 2, count)
        texts = [f"a {('bad', 'good')[label]} film {name} {i}" for i, label in enumerate(labels)]
        pq.write_table(pa.Table.from_pydict({"text": texts, "label": labels}), data / f"{name}.parquet")
    translation = {
        "vocab_size": 290,
        "batch_tokens": 200,
        "max_target": 40,
        "label_smoothing": 0.0,
        "transformer": SIZE | {"pre_norm": True},
        "training": TRAINING,
    }
    sentiment = {"encoder": SIZE, "vocab_size": 300, "max_tokens": 32, "batch_tokens": 256, "training": TRAINING}
    characters = {
        "source": str(data / "verse.txt"),
        "model": SIZE | {"context": 64},
        "ngram": 2,
        "batch_size": 16,
        "training": TRAINING,
    }
    (data / "verse.txt").write_text(VERSE)

    @cache
    def trained(task: str) -> Path:
        folder = data / task
        if task == "translation":
            train_translation(build(TranslationConfig, translation, []), folder)
        elif task == "sentiment":
            train_sentiment(build(SentimentConfig, sentiment, []), folder)
        else:
            train_characters(build(CharactersConfig, characters, []), folder)
        return folder

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARCHLAB_DATA", str(data))
        yield trained


@pytest.fixture(scope="session")
def runs(talkative_run: Callable[[str], Path]) -> dict[str, Path]:
    """Name -> folder of a tiny run of each arm."""
    return {"scenes-token": talkative_run("token"), "scenes-vljepa": talkative_run("vljepa")}


@pytest.fixture(scope="session")
def entries(runs: dict[str, Path]) -> tuple[str, ...]:
    """The same, as the setting `models` names them."""
    return tuple(f"{name}={folder}" for name, folder in runs.items())


@pytest.fixture(scope="module", params=["thread", "process"])
def engines(request: pytest.FixtureRequest) -> str:
    """The setting: what depends on it is tested with each."""
    return str(request.param)


@pytest.fixture(scope="session")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An export without its graphs, which is only found when it is opened, as the setting `models` names it."""
    folder, sizes = tmp_path_factory.mktemp("damaged"), dict.fromkeys(("image_size", "feature_width", "width"), 8)
    about: dict[str, Any] = {"run": "gone", "run_digest": "0", "encoder_digest": "0", "arm": "token", "scale": None}
    Manifest(**about, **sizes, visual_tokens=1, files={}, parity={}, versions={}).save(folder)
    return f"damaged={folder}"


@pytest.fixture(scope="session")
def all_entries(entries: tuple[str, ...], text_run: Callable[[str], Path], tiny_encoder: Path) -> tuple[str, ...]:
    """A run of every recipe, as the setting `models` names them."""
    return (*entries, *(str(text_run(task)) for task in ("translation", "sentiment", "characters")), str(tiny_encoder))


@pytest.fixture(scope="session")
def live(all_entries: tuple[str, ...]) -> Iterator[Live]:
    """A service of a run of every recipe, without keys."""
    with serving(models=all_entries, backend="torch", price_per_hour=2.0) as service:
        yield service


@pytest.fixture
def client(live: Live) -> Iterator[httpx.Client]:
    with live.client() as client:
        yield client
