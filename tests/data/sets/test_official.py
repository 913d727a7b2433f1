"""Promises of the official layouts, each on a tiny folder that is laid out like the real download."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from archlab.config import PairsData
from archlab.data.example import Dataset
from archlab.data.pairs import hub
from archlab.data.sets import ENVIRONMENT, SETS, clothing, eurosat, load_set
from archlab.data.sets.reading import CAPTION_QUERY
from archlab.errors import UserError

Png = Callable[..., bytes]


@pytest.fixture(autouse=True)
def _no_prepared_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)


def load(name: str, place: Path | str, **settings: object) -> Dataset:
    return load_set(name, str(place), PairsData(**settings), image_size=8, seed=0)  # type: ignore[arg-type]


def put(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def content(dataset: Dataset) -> dict[str, list[tuple[str, str, tuple[str, ...]]]]:
    return {
        name: [(one.kind, one.queries[0], tuple(one.targets)) for one in split.examples]
        for name, split in dataset.splits.items()
    }


def told(name: str, templates: tuple[str, ...]) -> list[tuple[str, str, tuple[str, ...]]]:
    """What is asked and said of an image of a class."""
    captions = tuple(template.format(name) for template in templates)
    return [("class", "what is this", (name,)), ("caption", CAPTION_QUERY, captions)]


def red(dataset: Dataset, split: str, row: int) -> int:
    """The red value of an example's image, which tells images apart."""
    one = dataset[split].examples[row]
    return int(dataset[split].images[one.image : one.image + 1][0, 4, 4, 0])


def easy_vqa(data: Path, png: Png) -> None:
    questions = [["what shape is in the image?", "circle", 0], ["is there a red shape?", "no", 0]]
    put(data / "train" / "questions.json", json.dumps([*questions, ["what color is the shape?", "teal", 1]]))
    put(data / "test" / "questions.json", json.dumps([["is there a circle?", "yes", 0]]))
    put(data / "answers.txt", "circle\nteal\nyes\nno\n")
    for split, number, colour in (("train", 0, 10), ("train", 1, 11), ("test", 0, 12)):
        put(data / split / "images" / f"{number}.png", png(colour))


@pytest.mark.parametrize("inner", [".", "data", "easy_vqa/data"])
def test_easy_vqa_from_its_repository(tmp_path: Path, png: Png, inner: str) -> None:
    easy_vqa(tmp_path / inner, png)
    dataset = load("easy-vqa", tmp_path)
    rows = content(dataset)
    assert rows["test"] == [("yes/no", "is there a circle?", ("yes",))]
    assert sorted(rows["train"] + rows["validation"]) == [
        ("colour", "what color is the shape?", ("teal",)),
        ("shape", "what shape is in the image?", ("circle",)),
        ("yes/no", "is there a red shape?", ("no",)),
    ]
    assert red(dataset, "test", 0) == 12


def test_easy_vqa_from_the_installed_package(tmp_path: Path, png: Png, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "easy_vqa" / "__init__.py", "")
    easy_vqa(tmp_path / "easy_vqa" / "data", png)
    monkeypatch.syspath_prepend(tmp_path)
    assert len(load("easy-vqa", "")["test"].examples) == 1
    assert "easy_vqa" not in sys.modules


@pytest.mark.parametrize("inner", [".", "EuroSAT_RGB", "2750"])
def test_eurosat_from_the_unpacked_archive(tmp_path: Path, png: Png, inner: str) -> None:
    for number in range(10):
        name = ("AnnualCrop", "SeaLake")[number % 2]
        put(tmp_path / inner / name / f"{name}_{number}.jpg", png(number))
    rows = content(load("eurosat", tmp_path))
    assert [len(members) for members in rows.values()] == [16, 2, 2]
    assert {row for members in rows.values() for row in members} == {
        row for name in ("annual crop", "sea lake") for row in told(name, eurosat.TEMPLATES)
    }


def test_clothing_small_from_its_repository(tmp_path: Path, png: Png) -> None:
    for number, place in enumerate(("train/dress", "train/t-shirt", "validation/dress", "test/t-shirt")):
        put(tmp_path / place / f"{number}.jpg", png(number))
    rows = content(load("clothing", tmp_path))
    assert rows["validation"] == told("dress", clothing.TEMPLATES)
    assert rows["test"] == told("t-shirt", clothing.TEMPLATES)


def test_clothing_in_full_is_cut_by_contributor(tmp_path: Path, png: Png) -> None:
    lines = ["image,sender_id,label,kids"]
    for number in range(24):
        label = "Not sure" if number == 23 else "T-Shirt"
        lines.append(f"id{number},{number % 6},{label},False")
        put(tmp_path / "images" / f"id{number}.jpg", png(number))
    put(tmp_path / "images.csv", "\n".join(lines))
    dataset = load("clothing", tmp_path)
    senders = [
        {int(one.id[2:].removesuffix(":caption")) % 6 for one in split.examples} for split in dataset.splits.values()
    ]
    assert sum(map(len, senders)) == 6
    assert sum(len(split.examples) for split in dataset.splits.values()) == 2 * 23


def test_vqa_rad_from_osf(tmp_path: Path, png: Png) -> None:
    rows = [
        {"qid": 1, "image_name": "a.jpg", "question": "Normal? ", "answer": "Yes", "answer_type": "CLOSED "},
        {"qid": 2, "image_name": "b.jpg", "question": "How many?", "answer": 2, "answer_type": "OPEN"},
        {"qid": "3", "image_name": "a.jpg", "question": "Is it?", "answer": "no", "answer_type": "CLOSED"},
    ]
    for row, phrase in zip(rows, ("freeform", "para", "test_para"), strict=True):
        row["phrase_type"] = phrase
    put(tmp_path / "VQA_RAD Dataset Public.json", json.dumps(rows))
    for number, name in enumerate("ab"):
        put(tmp_path / "VQA_RAD Image Folder" / f"{name}.jpg", png(number))
    dataset = load("vqa-rad", tmp_path)
    found = content(dataset)
    assert found["test"] == [("closed", "Is it?", ("no",))]
    assert sorted(found["train"] + found["validation"]) == [
        ("closed", "Normal?", ("Yes",)),
        ("open", "How many?", ("2",)),
    ]


EMOJI_TEST = """# group: People & Body
1F385                ; fully-qualified     # 🎅 E0.6 Santa Claus
1F385 1F3FB          ; fully-qualified     # 🎅🏻 E1.0 Santa Claus: light skin tone
1F385 1F3FF          ; fully-qualified     # 🎅🏿 E1.0 Santa Claus: dark skin tone
2764 FE0F            ; fully-qualified     # ❤️ E0.6 red heart
2764                 ; unqualified         # ❤ E0.6 wrong line
1F3B2                ; fully-qualified     # 🎲 E0.6 game die
1F3FB                ; component           # 🏻 E1.0 light skin tone
"""


def test_emoji_from_noto_with_unicode_s_names(tmp_path: Path, png: Png) -> None:
    names = ("1f385", "1f385_1f3fb", "1f385_1f3ff", "2764", "1f3b2", "1f1e6")
    for number, name in enumerate(names):
        put(tmp_path / "png" / "128" / f"emoji_u{name}.png", png(number))
    put(tmp_path / "emoji-test.txt", EMOJI_TEST)
    dataset = load("emoji", tmp_path)
    found = [{target[0] for _, _, target in members} for members in content(dataset).values()]
    santas = {"Santa Claus", "Santa Claus: light skin tone", "Santa Claus: dark skin tone"}
    assert sorted(map(sorted, found)) == sorted(map(sorted, [santas, {"red heart"}, {"game die"}]))


CNXML = """<document xmlns="http://cnx.rice.edu/cnxml"><content>
<figure id="f"><media id="m" alt="{alt}"><image mime-type="image/jpeg" src="../../media/{name}"/></media>
<caption>c</caption></figure>
<media alt=""><image src="../../media/none.jpg"/></media>
<media alt="A film."><iframe src="https://example.org"/></media></content></document>"""


def openstax(root: Path, png: Png) -> None:
    alts = (
        "A photo of a  cat.\nIt sleeps.",
        "A photograph of a dog",
        "A bar chart. Two bars.",
        "A painting of an owl.",
    )
    for number, alt in enumerate((*alts, alts[0])):
        name = f"{number % 4}.jpg"
        module = root / "osbooks-biology" / "modules" / f"m{number}" / "index.cnxml"
        put(module, CNXML.format(alt=alt, name=name))
        put(root / "osbooks-biology" / "media" / name, png(number % 4))


def test_openstax_from_its_books(tmp_path: Path, png: Png) -> None:
    openstax(tmp_path, png)
    rows = content(load("openstax", tmp_path))
    assert sorted(target for members in rows.values() for _, _, target in members) == [
        ("A bar chart.", "A bar chart. Two bars."),
        ("A painting of an owl.",),
        ("A photo of a cat.", "A photo of a cat. It sleeps."),
        ("A photograph of a dog",),
    ]


def test_openstax_photo_leaves_out_what_does_not_say_that_it_is_one(tmp_path: Path, png: Png) -> None:
    openstax(tmp_path, png)
    rows = content(load("openstax-photo", tmp_path))
    assert sorted(target[0] for members in rows.values() for _, _, target in members) == [
        "A painting of an owl.",
        "A photo of a cat.",
        "A photograph of a dog",
    ]


def test_hub_copies_are_read_by_their_own_columns(tmp_path: Path, png: Png, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def fake(features: datasets.Features, **columns: list[object]) -> Callable[..., datasets.DatasetDict]:
        table = datasets.Dataset.from_dict({"image": [{"bytes": png(n), "path": None} for n in range(4)], **columns})
        table = table.cast(datasets.Features({"image": datasets.Image(), **features}))
        splits = datasets.DatasetDict({"train": table, "test": table.select([3])})
        return lambda *_, **__: splits

    text = datasets.Value("string")
    labels = datasets.ClassLabel(names=["Annual Crop", "River"])
    monkeypatch.setattr(
        datasets, "load_dataset", fake({"label": labels, "filename": text}, label=[0, 1, 0, 1], filename=["x"] * 4)
    )
    assert content(load("eurosat", "hub"))["test"] == told("river", eurosat.TEMPLATES)
    questions = {"question": ["normal?"] * 4, "answer": ["yes", "no", "ct", "mri"]}
    monkeypatch.setattr(datasets, "load_dataset", fake({"question": text, "answer": text}, **questions))
    assert content(load("vqa-rad", "hub"))["test"] == [("answer", "normal?", ("mri",))]
    monkeypatch.setattr(datasets, "load_dataset", fake({"klass": text}, klass=["a"] * 4))
    with pytest.raises(UserError, match="has no column 'label', it has image, klass"):
        load("eurosat", "hub")


def test_the_hub_ids_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(name: str, stream: bool) -> None:
        asked.append(name)
        raise UserError("stop")

    monkeypatch.setattr(hub, "load_splits", refuse)
    for name in ("eurosat", "vqa-rad"):
        with pytest.raises(UserError, match="stop"):
            load(name, "hub")
    assert asked == ["blanchon/EuroSAT_RGB", "flaviagiammarino/vqa-rad"]


@pytest.mark.parametrize("name", SETS)
def test_without_any_data_the_variable_and_the_official_source_are_named(name: str) -> None:
    with pytest.raises(UserError, match=ENVIRONMENT) as caught:
        load(name, "")
    assert "https://" in str(caught.value)
    assert f"data.source={name}:FOLDER" in str(caught.value)


@pytest.mark.parametrize("name", SETS)
def test_a_folder_in_another_layout_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=str(tmp_path)):
        load(name, tmp_path)


DAMAGED = {
    "easy-vqa": ("train/questions.json", ["", '{"a": 1}', '[["q", "a"]]', "[1]"]),
    "vqa-rad": ("VQA_RAD Dataset Public.json", ["", "{}", "[1]", '[{"qid": 1}]']),
    "clothing": ("images.csv", ["image,label\na,Hat\n"]),
    "emoji": ("png/128/emoji_u1f3b2.png", ["without emoji-test.txt"]),
    "openstax": ("osbooks-x/modules/m1/index.cnxml", ["", "<document>"]),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_download_is_one_line_that_names_the_file(name: str, tmp_path: Path) -> None:
    file, contents = DAMAGED[name]
    named = "emoji-test.txt" if name == "emoji" else file
    for text in contents:
        put(tmp_path / file, text)
        with pytest.raises(UserError, match=named) as caught:
            load(name, tmp_path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", SETS)
def test_a_download_that_is_not_there_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        load(name, tmp_path / "gone")


def test_a_prepared_folder_without_the_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path))
    with pytest.raises(UserError, match=r"names a folder without eurosat_rgb_10500\.parquet"):
        load("eurosat", "")
    put(tmp_path / "eurosat_rgb_10500.parquet", b"junk")
    with pytest.raises(UserError, match="is no complete parquet file"):
        load("eurosat", "")


def test_a_set_that_is_not_on_the_hub_says_so() -> None:
    with pytest.raises(UserError, match="emoji:hub: this set is not on the hub"):
        load("emoji", "hub")


def test_a_mapping_of_columns_has_no_effect_on_a_named_set_and_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.pairs\.columns=.* remove it"):
        load("emoji", tmp_path, columns={"text": "alt"})
