"""Promises of the image-folder reader: what it reads, and what each kind of broken input says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from archlab.config import PairsData
from archlab.data import images
from archlab.data.example import Dataset
from archlab.data.pairs import load_pairs
from archlab.data.pairs.rows import Problems
from archlab.errors import UserError

Png = Callable[..., bytes]


def write(folder: Path, lines: list[object], images_: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in images_.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    raw = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    (folder / "metadata.jsonl").write_bytes(b"\n".join(raw) + b"\n")
    return folder


def captions(folder: Path, png: Png, count: int = 10) -> Path:
    lines: list[object] = [{"file_name": f"{n}.png", "text": f"picture {n}"} for n in range(count - 1)]
    lines.append({"file_name": f"{count - 1}.png", "text": f"picture {count - 1}", "question": "", "answer": None})
    return write(folder, lines, {f"{n}.png": png(n) for n in range(count)})


def load(place: Path, **settings: object) -> Dataset:
    return load_pairs(place, PairsData(**settings), image_size=8, seed=0)  # type: ignore[arg-type]


def examples(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    return {one.id: (name, *one.targets) for name, split in dataset.splits.items() for one in split.examples}


def test_captions_are_read_with_their_images(tmp_path: Path, png: Png) -> None:
    dataset = load(captions(tmp_path, png))
    assert {name: len(split.examples) for name, split in dataset.splits.items()} == {
        "train": 8,
        "validation": 1,
        "test": 1,
    }
    for split in dataset.splits.values():
        for one in split.examples:
            number = int(one.targets[0].removeprefix("picture "))
            assert (one.task, one.kind, one.queries) == ("caption", "caption", ("describe the picture",))
            assert split.images[one.image : one.image + 1][0, 0, 0].tolist() == [number, 0, 90]


def test_several_rows_share_one_image_and_stay_in_one_split(tmp_path: Path, png: Png) -> None:
    lines = [
        {"file_name": f"{n}.png", "question": question, "answer": answer}
        for n in range(12)
        for question, answer in (("is it red?", "Yes"), ("is it blue?", "no"), ("what number?", n))
    ]
    dataset = load(write(tmp_path, lines, {f"{n}.png": png(n) for n in range(12)}))
    assert sum(len(split.images) for split in dataset.splits.values()) == 12
    for split in dataset.splits.values():
        assert len(split.examples) == 3 * len(split.images)
    first = dataset["train"].examples[0]
    assert (first.task, first.kind, first.queries, first.targets, first.meaning) == (
        "vqa",
        "yes/no",
        ("is it red?",),
        ("Yes",),
        "yes",
    )
    assert {one.kind for one in dataset["train"].examples} == {"yes/no", "answer"}


def test_a_row_may_hold_a_text_and_a_question(tmp_path: Path, png: Png) -> None:
    lines = [{"file_name": f"{n}.png", "text": "t", "question": "q", "answer": "a", "kind": "k"} for n in range(3)]
    dataset = load(write(tmp_path, lines, {f"{n}.png": png(n) for n in range(3)}))
    kinds = [(one.id, one.task, one.kind) for one in dataset["test"].examples]
    name = dataset["test"].examples[1].id
    assert kinds == [(f"{name}:caption", "caption", "caption"), (name, "vqa", "k")]


def test_a_list_of_texts_is_surface_forms_of_one_caption(tmp_path: Path, png: Png) -> None:
    lines = [{"file_name": f"{n}.png", "text": [f"A {n}", " ", f"an {n} "]} for n in range(3)]
    dataset = load(write(tmp_path, lines, {f"{n}.png": png(n) for n in range(3)}))
    one = dataset["train"].examples[0]
    number = one.id[0]
    assert (one.targets, one.meaning) == ((f"A {number}", f"an {number}"), f"a {number}")


def test_columns_are_renamed_by_the_mapping(tmp_path: Path, png: Png) -> None:
    lines = [{"img": f"{n}.png", "alt": f"picture {n}", "fold": "test" if n == 2 else "train"} for n in range(5)]
    folder = write(tmp_path, lines, {f"{n}.png": png(n) for n in range(5)})
    dataset = load(folder, columns={"image": "img", "text": "alt", "split": "fold"}, query="what is it?")
    assert [one.targets for one in dataset["test"].examples] == [("picture 2",)]
    assert dataset["test"].examples[0].queries == ("what is it?",)
    assert len(dataset["validation"].examples) == 1


@pytest.mark.parametrize("metadata_inside", [True, False])
def test_sub_folders_are_splits(tmp_path: Path, png: Png, metadata_inside: bool) -> None:
    for number, split in enumerate(("train", "val", "test")):
        write(tmp_path / split, [{"file_name": "a.png", "text": split}], {"a.png": png(number)})
    if not metadata_inside:
        lines = [json.dumps({"file_name": f"{split}/a.png", "text": split}) for split in ("train", "val", "test")]
        for path in tmp_path.glob("*/metadata.jsonl"):
            path.unlink()
        (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    assert examples(load(tmp_path)) == {
        "train/a.png#1": ("train", "train"),
        "val/a.png#1": ("validation", "val"),
        "test/a.png#1": ("test", "test"),
    }


def test_class_folders_become_classification(tmp_path: Path, png: Png) -> None:
    for number in range(12):
        folder = tmp_path / ("SeaLake" if number % 2 else "annual_crop")
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.png").write_bytes(png(number))
    dataset = load(tmp_path)
    one = dataset["train"].examples[0]
    assert (one.task, one.kind, one.queries) == ("vqa", "class", ("what is this",))
    assert sorted(dataset["test"].candidates["class"]) == ["annual crop", "sea lake"]
    assert all(
        target == ("sea lake" if "SeaLake" in name else "annual crop")
        for name, (_, target) in examples(dataset).items()
    )


def test_class_folders_inside_split_folders(tmp_path: Path, png: Png) -> None:
    for number, name in enumerate(("train/cat", "train/dog", "validation/cat", "test/dog")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "x.png").write_bytes(png(number))
    assert examples(load(tmp_path)) == {
        "train/cat/x.png": ("train", "cat"),
        "train/dog/x.png": ("train", "dog"),
        "validation/cat/x.png": ("validation", "cat"),
        "test/dog/x.png": ("test", "dog"),
    }


def test_a_folder_without_metadata_is_shown_an_example_line(tmp_path: Path, png: Png) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(png())
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    example = str(caught.value).partition("like ")[2]
    assert str(tmp_path / "metadata.jsonl") in str(caught.value)
    write(tmp_path, [example.encode()] * 3, {"cat.jpg": png()})
    with pytest.raises(UserError, match="1 images"):  # the line is understood: what lacks is two more images
        load(tmp_path)


def broken(tmp_path: Path, png: Png, line: object, **images_: bytes) -> Path:
    """Ten good rows, and the broken one as line 4."""
    folder = captions(tmp_path, png)
    (folder / "folder").mkdir()
    lines = (folder / "metadata.jsonl").read_bytes().splitlines()
    lines.insert(3, line if isinstance(line, bytes) else json.dumps(line).encode())
    return write(folder, list(lines), {name.replace("_", "."): data for name, data in images_.items()})


BROKEN = {
    "missing-file": ({"file_name": "gone.png", "text": "t"}, r"gone\.png: no such file"),
    "empty-text": ({"file_name": "0.png", "text": "  "}, "nothing is written in 'text', 'question', 'answer'"),
    "no-text": ({"file_name": "0.png"}, "nothing is written in 'text'"),
    "no-file-name": ({"text": "t"}, "'file_name' names no file"),
    "file-name-number": ({"file_name": 3, "text": "t"}, "'file_name' names no file"),
    "outside": ({"file_name": "../x.png", "text": "t"}, "lies outside the folder"),
    "absolute": ({"file_name": "/etc/hostname", "text": "t"}, "lies outside the folder"),
    "not-json": (b'{"file_name": "0.png", "text": }', "is not valid JSON"),
    "not-utf8": (b'{"file_name": "0.png", "text": "\xff"}', "is not UTF-8"),
    "not-an-object": (b'["0.png"]', "holds a list"),
    "no-answer": ({"file_name": "0.png", "text": "t", "question": "q"}, "column 'answer' is empty"),
    "no-question": ({"file_name": "0.png", "answer": "a"}, "column 'question' is empty"),
    "text-is-object": ({"file_name": "0.png", "text": {"en": "t"}}, "column 'text' holds a dict"),
    "text-is-true": ({"file_name": "0.png", "text": True}, "column 'text' holds a bool"),
    "half-surrogate": (b'{"file_name": "0.png", "text": "\\ud800"}', "half a surrogate pair"),
    "deep-json": (b"[" * 100_000, "is not valid JSON"),
    "dot": ({"file_name": "./", "text": "t"}, "'file_name' names no file"),
    "a-folder": ({"file_name": "folder", "text": "t"}, "is a directory"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_row_stops_with_file_line_rule_and_remedy(tmp_path: Path, png: Png, case: str) -> None:
    line, rule = BROKEN[case]
    with pytest.raises(UserError, match=rule) as caught:
        load(broken(tmp_path, png, line))
    assert str(caught.value).startswith(f"{tmp_path / 'metadata.jsonl'}, line 4: ")
    assert "data.pairs.on_error=skip" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_row_is_skipped_and_listed(tmp_path: Path, png: Png, case: str) -> None:
    line, rule = BROKEN[case]
    whole = load(captions(tmp_path / "whole", png))
    dataset = load(broken(tmp_path / "broken", png, line), on_error="skip")
    (skipped,) = dataset["train"].skipped
    assert skipped.startswith("metadata.jsonl, line 4: ")
    assert re.search(rule, skipped)
    assert "on_error" not in skipped
    assert ";" not in skipped  # what is wrong, not what to do: it has been done
    assert dataset.digest() == whole.digest()


@pytest.mark.parametrize("defect", ["empty", "text", "truncated", "bomb"])
def test_a_broken_image_is_skipped_with_all_its_rows(tmp_path: Path, png: Png, defect: str) -> None:
    image = {"empty": b"", "text": b"hello", "truncated": png(300, (64, 64))[:-30], "bomb": png(1, (2000, 2000))}[
        defect
    ]
    folder = broken(tmp_path, png, {"file_name": "bad.png", "text": "t"}, bad_png=image)
    with (folder / "metadata.jsonl").open("a") as file:
        file.write(json.dumps({"file_name": "bad.png", "text": "again"}))
    dataset = load(folder, on_error="skip", max_pixels=1_000_000)
    assert [line.split(": ")[0].rpartition("line ")[2] for line in dataset["train"].skipped] == ["4", "12"]
    assert sum(len(split.images) for split in dataset.splits.values()) == 10


@pytest.mark.parametrize(("image", "rule"), [(b"", "is empty"), (b"hello", "is none of JPEG"), (None, "max_pixels")])
def test_a_broken_image_stops_before_training(tmp_path: Path, png: Png, image: bytes | None, rule: str) -> None:
    image = png(1, (2000, 2000)) if image is None else image
    folder = broken(tmp_path, png, {"file_name": "bad.png", "text": "t"}, bad_png=image)
    with pytest.raises(UserError, match=rf"line 4: image .*bad\.png: .*{rule}"):
        load(folder, max_pixels=1_000_000)


def test_a_truncated_image_is_named_when_it_is_decoded(tmp_path: Path, png: Png) -> None:
    line = {"file_name": "bad.png", "text": "t"}
    dataset = load(broken(tmp_path, png, line, bad_png=png(300, (64, 64))[:-30]))
    with pytest.raises(UserError, match=r"bad\.png: truncated or damaged"):
        [split.images[:] for split in dataset.splits.values()]


def test_repeated_ids_are_a_problem(tmp_path: Path, png: Png) -> None:
    lines = [{"file_name": f"{n}.png", "text": "t", "id": "same" if n in (2, 5) else n} for n in range(8)]
    folder = write(tmp_path, lines, {f"{n}.png": png(n) for n in range(8)})
    with pytest.raises(UserError, match=r"line 6: id 'same' was already used by .*line 3"):
        load(folder)
    dataset = load(folder, on_error="skip")
    assert sorted(examples(dataset)) == ["0", "1", "3", "4", "6", "7", "same"]


def test_nothing_usable_names_the_first_problem(tmp_path: Path) -> None:
    folder = write(tmp_path, [{"file_name": "gone.png", "text": "t"}], {})
    with pytest.raises(UserError, match=r"holds no usable row; the first problem: .*gone\.png"):
        load(folder, on_error="skip")


def test_what_is_left_out_of_class_folders_is_named_once(tmp_path: Path, png: Png) -> None:
    for n in range(12):
        path = tmp_path / ("cat", "dog")[n % 2] / f"{n}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(n) if n else b"")
    skipped = load(tmp_path, on_error="skip")["train"].skipped
    assert skipped == [f"{Path('cat', '0.png')}: is empty"]


def test_only_the_folder_itself_is_cut_from_the_names_of_what_is_left_out(tmp_path: Path) -> None:
    problems = Problems(skip=True, root=Path("data"))
    problems.report("", "data/metadata/data/a.jsonl, line 1", UserError("id 1 was already used by data/b.jsonl"))
    assert problems.skipped == [("", "metadata/data/a.jsonl, line 1: id 1 was already used by b.jsonl")]


def test_wrong_columns_stop_even_when_rows_are_skipped(tmp_path: Path, png: Png) -> None:
    lines = [{"file_name": f"{n}.png", "caption": "t"} for n in range(4)]
    folder = write(tmp_path, lines, {f"{n}.png": png(n) for n in range(4)})
    with pytest.raises(UserError, match=r"it has file_name, caption; .*data\.pairs\.columns=\{text: caption\}"):
        load(folder, on_error="skip")


def test_blank_lines_and_a_byte_order_mark_are_ignored(tmp_path: Path, png: Png) -> None:
    folder = captions(tmp_path, png)
    plain = load(folder).digest()
    raw = (folder / "metadata.jsonl").read_bytes()
    (folder / "metadata.jsonl").write_bytes(b"\xef\xbb\xbf" + raw.replace(b"\n", b"\r\n\n"))
    assert load(folder).digest() == plain


def test_the_limit_is_rows_per_split(tmp_path: Path, png: Png) -> None:
    dataset = load(captions(tmp_path, png), limit=4)
    assert sorted(examples(dataset)) == ["0.png#1", "1.png#1", "2.png#1", "3.png#1"]


def test_loading_a_folder_decodes_no_image(tmp_path: Path, png: Png, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = captions(tmp_path, png, 30)
    decoded = []
    original = images.square
    monkeypatch.setattr(images, "square", lambda image, size: (decoded.append(1), original(image, size))[1])
    dataset = load(folder)
    assert decoded == []
    dataset["train"].images[3:7]
    assert len(decoded) == 4


def test_a_missing_path_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        load(tmp_path / "nowhere")
