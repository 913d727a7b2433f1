from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from archlab.data.text.sets import load_characters, load_reviews, load_translation
from archlab.errors import UserError

SPLITS = {"train": 3, "val": 2, "test_2016_flickr": 2, "test_2017_flickr": 1}


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The prepared files in small."""
    rows = [
        {"split": split, "en": f"{split} en {i}", "fr": f"{split} fr {i}", "de": f"{split} de {i}"}
        for split, count in SPLITS.items()
        for i in range(count)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "multi30k_en_fr_de.parquet")
    for name, count in (("imdb_train25k", 4), ("imdb_test5k", 2)):
        reviews = [{"text": f"{name} {i}", "label": i % 2, "rating": 9} for i in range(count)]
        pq.write_table(pa.Table.from_pylist(reviews), tmp_path / f"{name}.parquet")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "tinyshakespeare.txt").write_text("To be, or not to be\n")
    monkeypatch.setenv("ARCHLAB_DATA", str(tmp_path))
    return tmp_path


def test_multi30k_comes_in_its_official_splits_and_pairs_stay_pairs(prepared: Path) -> None:
    splits = load_translation("multi30k", ["en", "fr"])
    assert {name: len(pairs.source) for name, pairs in splits.items()} == {
        "train": 3,
        "validation": 2,
        "test_2016_flickr": 2,
        "test_2017_flickr": 1,
    }
    assert splits["train"].source[2] == "train en 2"
    assert splits["train"].target[2] == "train fr 2"
    assert load_translation("multi30k", ["fr", "de"])["train"].source[2] == "train fr 2"


def test_the_official_clone_gives_the_same_as_the_prepared_file(prepared: Path) -> None:
    raw = prepared / "clone" / "data" / "task1" / "raw"
    raw.mkdir(parents=True)
    for split, count in SPLITS.items():
        for language in ("en", "fr"):
            lines = "".join(f"{split} {language} {i}\n" for i in range(count))
            (raw / f"{split}.{language}.gz").write_bytes(gzip.compress(lines.encode()))
    official = load_translation(f"multi30k:{prepared / 'clone'}", ["en", "fr"])
    assert official == load_translation("multi30k", ["en", "fr"])
    assert official["train"].digest() == load_translation("multi30k", ["en", "fr"])["train"].digest()


def test_reviews_come_from_the_prepared_files_or_from_the_official_folder(prepared: Path) -> None:
    splits = load_reviews("imdb")
    assert splits["train"].texts == [f"imdb_train25k {i}" for i in range(4)]
    assert splits["test"].labels == [0, 1]
    for split in ("train", "test"):
        for name, text in (("pos", "good"), ("neg", "bad")):
            (prepared / "aclImdb" / split / name).mkdir(parents=True)
            (prepared / "aclImdb" / split / name / "0_9.txt").write_text(text)
    official = load_reviews(f"imdb:{prepared / 'aclImdb'}")
    assert list(zip(official["train"].texts, official["train"].labels, strict=True)) == [("bad", 0), ("good", 1)]


def test_characters_come_from_the_prepared_file_a_download_or_any_text_file(prepared: Path) -> None:
    own = prepared / "own.txt"
    own.write_text("äö")
    assert load_characters("tinyshakespeare") == "To be, or not to be\n"
    assert load_characters(f"tinyshakespeare:{own}") == load_characters(str(own)) == "äö"


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        (lambda: load_translation("multi31k", ["en", "fr"]), "known is multi30k"),
        (lambda: load_translation("multi30k", ["en", "it"]), "en, fr and de, not 'it'"),
        (lambda: load_translation("multi30k:/nowhere", ["en", "fr"]), r"train\.en\.gz: cannot be read"),
        (lambda: load_reviews("sst"), "known is imdb"),
        (lambda: load_reviews("imdb:/nowhere"), "holds no reviews; the official source is https"),
        (lambda: load_characters("/nowhere.txt"), "cannot be read"),
    ],
)
def test_data_that_are_not_there_are_named_with_their_source(prepared: Path, load, expected: str) -> None:
    with pytest.raises(UserError, match=expected) as caught:
        load()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("load", [lambda: load_translation("multi30k", ["en", "fr"]), lambda: load_reviews("imdb")])
def test_without_the_folder_the_official_source_is_named(load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ARCHLAB_DATA", raising=False)
    with pytest.raises(UserError, match=r"ARCHLAB_DATA .* is not set; .*https://"):
        load()
    monkeypatch.setenv("ARCHLAB_DATA", str(tmp_path))
    with pytest.raises(UserError, match="names a folder without"):
        load()
    (tmp_path / "multi30k_en_fr_de.parquet").write_bytes(b"broken")
    (tmp_path / "imdb_train25k.parquet").write_bytes(b"broken")
    (tmp_path / "imdb_test5k.parquet").write_bytes(b"broken")
    with pytest.raises(UserError, match="cannot be read"):
        load()


def test_the_real_sets_have_their_published_sizes(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHLAB_DATA", str(real_data))
    pairs = load_translation("multi30k", ["en", "fr"])
    assert [len(one.source) for one in pairs.values()] == [29000, 1014, 1000, 1000]
    reviews = load_reviews("imdb")
    assert (len(reviews["train"].texts), sum(reviews["train"].labels)) == (25000, 12500)
    text = load_characters("tinyshakespeare")
    assert (len(text), len(set(text))) == (1_115_394, 65)
