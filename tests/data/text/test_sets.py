from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from archlab.data.text.sets import cut_end, load_characters, load_translation
from archlab.errors import UserError

NAMES = [f"n{i}" for i in range(100)] + [f"n{i}" for i in range(0, 100, 5)]
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
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "tinyshakespeare.txt").write_text("To be, or not to be\n")
    (tmp_path / "text" / "names.txt").write_text("\n".join(NAMES))
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


def test_characters_come_from_the_prepared_file_a_download_or_any_text_file(prepared: Path) -> None:
    own = prepared / "own.txt"
    own.write_text("äöü")
    assert load_characters("tinyshakespeare", 0.5, 0) == cut_end("To be, or not to be\n", 0.5)
    of_download, of_file = (load_characters(source, 0.4, 0) for source in (f"tinyshakespeare:{own}", str(own)))
    assert (of_download.train, of_download.validation) == (of_file.train, of_file.validation) == ("ä", "öü")
    assert of_file.digest() != load_characters("tinyshakespeare", 0.5, 0).digest()


def test_a_text_loses_its_end_and_its_digest_does_not_depend_on_the_cut() -> None:
    cut = cut_end("0123456789", 0.25)
    assert (cut.train, cut.validation) == ("0123456", "789")
    assert cut.digest() == cut_end("0123456789", 0.5).digest()


def test_names_are_held_out_whole_by_lot_and_equal_ones_together(prepared: Path) -> None:
    names = load_characters("names", 0.3, 0)
    sides = [part.splitlines() for part in (names.train, names.validation)]
    assert sorted(sides[0] + sides[1]) == sorted(NAMES)
    assert not set(sides[0]) & set(sides[1])
    assert 0.2 < len(set(sides[1])) / len(set(NAMES)) < 0.4
    assert sides[1] != sorted(sides[1])  # drawn from all over the file, in a random order
    assert min(map(int, (name[1:] for name in sides[1]))) < 20
    assert names.note == "20 of 120 names repeat an earlier one; equal names are on one side of the cut."
    assert names == load_characters("names", 0.3, 0)
    assert names.validation != load_characters("names", 0.3, 1).validation


def test_names_of_a_download_are_those_of_the_prepared_file(prepared: Path) -> None:
    download = prepared / "makemore" / "names.txt"
    download.parent.mkdir()
    download.write_text("\r\n".join(NAMES) + "\r\n")
    assert load_characters(f"names:{download}", 0.3, 0) == load_characters("names", 0.3, 0)


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        (lambda: load_translation("multi31k", ["en", "fr"]), "known is multi30k"),
        (lambda: load_translation("multi30k", ["en", "it"]), "en, fr and de, not 'it'"),
        (lambda: load_translation("multi30k:/nowhere", ["en", "fr"]), r"train\.en\.gz: cannot be read"),
        (lambda: load_characters("/nowhere.txt", 0.1, 0), "cannot be read .* give 'tinyshakespeare' or 'names'"),
        (lambda: load_characters("names:/nowhere.txt", 0.1, 0), "cannot be read"),
    ],
)
def test_data_that_are_not_there_are_named_with_their_source(prepared: Path, load, expected: str) -> None:
    with pytest.raises(UserError, match=expected) as caught:
        load()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "load", [lambda: load_translation("multi30k", ["en", "fr"]), lambda: load_characters("names", 0.1, 0)]
)
def test_without_the_folder_the_official_source_is_named(load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ARCHLAB_DATA", raising=False)
    with pytest.raises(UserError, match=r"ARCHLAB_DATA .* is not set; .*https://"):
        load()
    monkeypatch.setenv("ARCHLAB_DATA", str(tmp_path))
    with pytest.raises(UserError, match="names a folder without"):
        load()
    (tmp_path / "multi30k_en_fr_de.parquet").write_bytes(b"broken")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "names.txt").write_bytes(b"\xff")
    with pytest.raises(UserError, match="cannot be read"):
        load()


def test_the_real_sets_have_their_published_sizes(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHLAB_DATA", str(real_data))
    pairs = load_translation("multi30k", ["en", "fr"])
    assert [len(one.source) for one in pairs.values()] == [29000, 1014, 1000, 1000]
    text = load_characters("tinyshakespeare", 0.1, 0)
    assert (len(text.train + text.validation), len(set(text.train))) == (1_115_394, 65)
    names = load_characters("names", 0.1, 0)
    lines = (names.train + names.validation).splitlines()
    assert (len(lines), len(set(lines)), len(set(names.train))) == (32_033, 29_494, 27)
    assert len(set(names.validation.splitlines())) == pytest.approx(2949, abs=150)
