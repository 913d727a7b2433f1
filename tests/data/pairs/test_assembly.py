"""Promises of what is built from rows: candidates that give nothing away, and digests that name the data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from archlab.config import PairsData
from archlab.data.example import Dataset
from archlab.data.images import FileImage
from archlab.data.pairs import assembly
from archlab.data.pairs.assembly import assemble
from archlab.data.pairs.columns import resolve
from archlab.data.pairs.rows import Problems, Row, class_name, split_of_path
from archlab.errors import UserError

Png = Callable[..., bytes]


@pytest.fixture
def rows(tmp_path: Path, png: Png) -> Callable[..., list[Row]]:
    """`rows((split, kind, answer), ...)`: one question per tuple, each about an image of its own."""

    def make(*content: tuple[str, str, str]) -> list[Row]:
        result = []
        for number, (split, kind, answer) in enumerate(content):
            path = tmp_path / f"{number}.png"
            path.write_bytes(png(number))
            result.append(Row(str(number), f"row {number}", FileImage(path), "vqa", kind, "q", [answer], split))
        return result

    return make


def build(rows: list[Row], *, pooled: bool = True, image_size: int = 8, skip: bool = False) -> Dataset:
    return assemble("d", rows, PairsData(), image_size=image_size, seed=0, problems=Problems(skip), pooled=pooled)


CONTENT = [
    ("train", "yes/no", "Yes"),
    ("train", "yes/no", "yes"),
    ("train", "yes/no", "yes"),
    ("train", "yes/no", "no"),
    ("train", "answer", "Red"),
    ("train", "answer", "red "),
    ("train", "answer", "red "),
    ("validation", "answer", "blue"),
    ("test", "answer", "green"),
    ("test", "count", "3"),
]


def test_candidates_are_training_answers_one_form_per_meaning_the_frequent_first(
    rows: Callable[..., list[Row]],
) -> None:
    candidates = build(rows(*CONTENT), pooled=False)["test"].candidates
    assert candidates["yes/no"] == ["yes", "no"]
    assert candidates["answer"] == ["red "]


def test_a_kind_unknown_to_training_chooses_among_all_answers(rows: Callable[..., list[Row]]) -> None:
    assert build(rows(*CONTENT), pooled=False)["test"].candidates["count"] == ["red ", "yes", "no"]


def test_kinds_read_off_the_answer_share_all_candidates(rows: Callable[..., list[Row]]) -> None:
    dataset = build(rows(*CONTENT))
    assert set(map(tuple, dataset["test"].candidates.values())) == {("red ", "yes", "no")}
    assert dataset["test"].canonical_meaning == {"red ": "red", "yes": "yes", "no": "no"}
    assert dataset["validation"].candidates == dataset["train"].candidates == dataset["test"].candidates


def test_candidates_are_capped_to_the_most_frequent(
    rows: Callable[..., list[Row]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembly, "MAX_CANDIDATES", 2)
    answers = ["a", "b", "b", "c", "c", "c"]
    content = [("train", "answer", one) for one in answers] + [("test", "answer", "a"), ("validation", "answer", "a")]
    assert build(rows(*content))["test"].candidates["answer"] == ["c", "b"]


def test_a_digest_changes_with_texts_images_and_size_but_features_only_with_images(
    rows: Callable[..., list[Row]], tmp_path: Path, png: Png
) -> None:
    made = rows(*CONTENT)
    first = build(made)["test"]
    assert build(made)["test"].digest == first.digest
    other_text = build([*made[:-1], Row(**{**fields(made[-1]), "targets": ["4"]})])["test"]
    assert other_text.digest != first.digest
    assert other_text.image_digest == first.image_digest
    larger = build(made, image_size=9)["test"]
    (tmp_path / "9.png").write_bytes(png(99))
    other_image = build(made)["test"]
    for changed in (larger, other_image):
        assert changed.digest != first.digest
        assert changed.image_digest != first.image_digest


def fields(row: Row) -> dict[str, object]:
    return {name: getattr(row, name) for name in Row.__slots__}


def test_image_rows_point_at_the_example_s_own_image(rows: Callable[..., list[Row]]) -> None:
    for split in build(rows(*CONTENT)).splits.values():
        pixels = split.images[:]
        assert Counter(one.image for one in split.examples).most_common(1)[0][1] == 1
        assert all(pixels[one.image, 0, 0, 0] == int(one.id) for one in split.examples)


def test_skips_are_listed_with_the_split_they_belong_to(rows: Callable[..., list[Row]], tmp_path: Path) -> None:
    made = rows(*CONTENT, ("test", "answer", "x"))
    (tmp_path / "10.png").write_bytes(b"")
    dataset = build(made, skip=True)
    assert [len(dataset[name].skipped) for name in ("train", "validation", "test")] == [0, 0, 1]


@pytest.mark.parametrize(
    ("found", "mapping", "rule"),
    [
        (
            ["image", "caption"],
            {},
            r"no column for 'text', or 'question' and 'answer'; it has image, caption; .*text: caption",
        ),
        (["file_name", "text"], {}, r"no column for 'image'; .*\{image: file_name\}"),
        (["image", "question"], {}, r"no column for 'answer'; .*\{answer: COLUMN\}"),
        (["image", "question", "Response"], {}, r"\{answer: Response\}"),
        (["image", "text"], {"texte": "text"}, "role 'texte' is unknown; did you mean 'text'"),
        (["image", "text"], {"text": "captoin"}, "has no column 'captoin', which data.pairs.columns gives for 'text'"),
        ([], {}, "it has no columns"),
    ],
)
def test_wrong_columns_name_what_is_there_and_what_to_do(found: list[str], mapping: dict[str, str], rule: str) -> None:
    with pytest.raises(UserError, match=rule):
        resolve(found, mapping, "data")


def test_a_mapped_role_does_not_fall_back_to_its_own_name() -> None:
    columns = resolve(["image", "text", "alt"], {"text": "alt"}, "data")
    assert columns == {"image": "image", "text": "alt"}


@pytest.mark.parametrize(
    ("name", "words"),
    [("AnnualCrop", "annual crop"), ("Annual_Crop", "annual crop"), ("T-Shirt", "t-shirt"), ("DNA", "dna")],
)
def test_class_names_become_words(name: str, words: str) -> None:
    assert class_name(name) == words


@pytest.mark.parametrize(
    ("parts", "split"),
    [
        (("train-00000-of-00002.parquet",), "train"),
        (("data", "val_3.tar"), "validation"),
        (("test", "x.png"), "test"),
        (("trainer.parquet",), ""),
        (("part-0.parquet",), ""),
        ((), ""),
    ],
)
def test_splits_in_names_of_files_and_folders(parts: tuple[str, ...], split: str) -> None:
    assert split_of_path(parts) == split
