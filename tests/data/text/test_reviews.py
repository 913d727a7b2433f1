from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from archlab.data.text.reviews import Reviews, load_reviews
from archlab.errors import UserError

SST2 = {
    "train": "good fun\t1\nso `` bad ''\t0\n it 's\x85 fine \t1\n",
    "dev": "dull\t0\n",
    "test": "good fun\t1\nno\t0\n",
}


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The prepared files in small."""
    for name, count in (("imdb_train25k", 4), ("imdb_test5k", 2)):
        reviews = [{"text": f"{name} {i}", "label": i % 2, "rating": 9} for i in range(count)]
        pq.write_table(pa.Table.from_pylist(reviews), tmp_path / f"{name}.parquet")
    (tmp_path / "text").mkdir()
    for split, text in SST2.items():
        (tmp_path / "text" / f"sst2_{split}.tsv").write_text(text, encoding="utf-8")
    monkeypatch.setenv("ARCHLAB_DATA", str(tmp_path))
    return tmp_path


def glue(folder: Path) -> Path:
    """GLUE's archive in small: with headings, phrases of the sentences in train, and no labels in test."""
    folder.mkdir(parents=True)
    files = {"train": "good fun \t1\ngood \t1\nso bad \t0\n", "dev": "dull \t0\nfine \t1\n"}
    for split, text in files.items():
        (folder / f"{split}.tsv").write_text(f"sentence\tlabel\n{text}", encoding="utf-8")
    (folder / "test.tsv").write_text("index\tsentence\n0\tno one knows\n", encoding="utf-8")
    return folder


def test_imdb_comes_from_the_prepared_files_or_from_the_official_folder(prepared: Path) -> None:
    splits = load_reviews("imdb")
    assert splits["train"].texts == [f"imdb_train25k {i}" for i in range(4)]
    assert splits["test"].labels == [0, 1]
    for split in ("train", "test"):
        for name, text in (("pos", "good"), ("neg", "bad")):
            (prepared / "aclImdb" / split / name).mkdir(parents=True)
            (prepared / "aclImdb" / split / name / "0_9.txt").write_text(text)
    official = load_reviews(f"imdb:{prepared / 'aclImdb'}")
    assert list(zip(official["train"].texts, official["train"].labels, strict=True)) == [("bad", 0), ("good", 1)]


def test_sst2_comes_in_its_official_splits_with_its_floor(prepared: Path) -> None:
    found = load_reviews("sst2")
    assert found.splits == {
        "train": Reviews(["good fun", "so `` bad ''", "it 's\x85 fine"], [1, 0, 1]),
        "validation": Reviews(["dull"], [0]),
        "test": Reviews(["good fun", "no"], [1, 0]),
    }
    assert found.notes == [
        "1 of 2 test texts occur in train too",
        "floor that a model must beat on the test split: logistic regression on TF-IDF 81.3 %",
    ]


@pytest.mark.parametrize("inner", [".", "SST-2"])
def test_sst2_of_glue_is_tested_on_its_validation_split(tmp_path: Path, inner: str) -> None:
    glue(tmp_path / "glue" / inner)
    found = load_reviews(f"sst2:{tmp_path / 'glue'}")
    assert found.splits == {
        "train": Reviews(["good fun", "good", "so bad"], [1, 1, 0]),
        "test": Reviews(["dull", "fine"], [0, 1]),
    }
    assert any("validation split of GLUE" in note for note in found.notes)
    assert any("phrases" in note for note in found.notes)
    assert not any("floor" in note for note in found.notes)  # that of the sentences says nothing of GLUE's phrases


def test_sst2_of_the_hub_equals_glue_s_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def table(texts: list[str], labels: list[int], **renamed: str) -> Any:
        columns: dict[str, Any] = {"idx": list(range(len(texts))), "sentence": texts, "label": labels}
        return datasets.Dataset.from_dict({renamed.get(name, name): values for name, values in columns.items()})

    asked = []
    parts = {
        "train": table(["good fun ", "good ", "so bad "], [1, 1, 0]),
        "validation": table(["dull ", "fine "], [0, 1]),
        "test": table(["no one knows"], [-1]),
    }
    monkeypatch.setattr(
        datasets, "load_dataset", lambda name, *_, **__: (asked.append(name), datasets.DatasetDict(parts))[1]
    )
    found = load_reviews("sst2:hub")
    assert asked == ["stanfordnlp/sst2"]
    official = load_reviews(f"sst2:{glue(tmp_path / 'glue')}")
    assert found == official
    parts["validation"] = table(["dull"], [0], sentence="text")
    with pytest.raises(UserError, match="no validation split with columns sentence and label"):
        load_reviews("sst2:hub")
    del parts["validation"]
    with pytest.raises(UserError, match="no validation split"):
        load_reviews("sst2:hub")


def test_what_the_hub_does_not_give_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("no network\nat all")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(UserError, match=r"^source=stanfordnlp/sst2: `datasets` cannot load it \(no network\)"):
        load_reviews("sst2:hub")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("good fun\n", r"train\.tsv, line 2: must be a text, a tab and 0 or 1"),
        ("good fun\t-1\n", r"train\.tsv, line 2: must be"),
        ("fine\t1\n\t1\n", r"train\.tsv, line 3: must be"),
        ("", r"train\.tsv: holds no texts"),
        ("\udcff", r"train\.tsv: cannot be read \(it is not UTF-8\)"),
    ],
)
def test_a_damaged_file_is_one_line_that_names_it(tmp_path: Path, text: str, expected: str) -> None:
    folder = glue(tmp_path / "glue")
    (folder / "train.tsv").write_bytes(b"sentence\tlabel\n" + text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=expected) as caught:
        load_reviews(f"sst2:{folder}")
    assert "\n" not in str(caught.value)
    assert "https://" in str(caught.value)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("sst", "known are imdb, sst2"),
        ("imdb:/nowhere", "holds no reviews; the official source is https"),
        ("imdb:hub", "holds no reviews; the official source is https"),
        ("sst2:/nowhere", r"holds no train\.tsv; the official source is https"),
    ],
)
def test_sets_that_are_not_there_are_named_with_their_source(prepared: Path, source: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected) as caught:
        load_reviews(source)
    assert "\n" not in str(caught.value)


def test_a_folder_without_the_second_file_is_refused(tmp_path: Path) -> None:
    folder = glue(tmp_path / "glue")
    (folder / "dev.tsv").unlink()
    with pytest.raises(UserError, match=r"dev\.tsv: cannot be read \(No such file or directory\)"):
        load_reviews(f"sst2:{folder}")


@pytest.mark.parametrize("source", ["imdb", "sst2"])
def test_without_the_folder_the_official_source_is_named(
    source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("ARCHLAB_DATA", raising=False)
    with pytest.raises(UserError, match=r"ARCHLAB_DATA .* is not set; .*https://"):
        load_reviews(source)
    monkeypatch.setenv("ARCHLAB_DATA", str(tmp_path))
    with pytest.raises(UserError, match="names a folder without"):
        load_reviews(source)


def test_damaged_prepared_reviews_are_named(prepared: Path) -> None:
    (prepared / "imdb_train25k.parquet").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"imdb_train25k\.parquet: cannot be read"):
        load_reviews("imdb")


def test_the_real_sets_have_their_published_sizes(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHLAB_DATA", str(real_data))
    reviews = load_reviews("imdb")
    assert (len(reviews["train"].texts), sum(reviews["train"].labels)) == (25000, 12500)
    sentences = load_reviews("sst2")
    assert {name: len(split.texts) for name, split in sentences.splits.items()} == {
        "train": 6920,
        "validation": 872,
        "test": 1821,
    }
    assert {name: sum(split.labels) for name, split in sentences.splits.items()} == {
        "train": 3610,
        "validation": 444,
        "test": 909,
    }
