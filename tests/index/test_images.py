"""`archlab index` and `archlab search` with a tiny run, on folders of small pictures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from archlab.cli import main
from archlab.errors import UserError
from archlab.index import command
from archlab.index import embedder as embedder_module
from archlab.index.embedded import EmbeddedIndex
from archlab.index.embedder import Embedder
from archlab.index.exact import ExactIndex
from archlab.index.images import DIGEST, SOURCE, Indexed, Source, index_images, open_mirror
from archlab.index.protocol import Collection, CollectionSpec, Points
from archlab.train.run import Run

COLOURS = ["red", "green", "blue", "yellow", "black"]


@pytest.fixture(scope="module")
def run(tiny_run: Callable[[str], Run]) -> Path:
    return tiny_run("vljepa").folder


@pytest.fixture(scope="module")
def model(run: Path) -> Embedder:
    return Embedder.open(str(run))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five pictures of one colour each, one of them in a sub-folder."""
    place = tmp_path / "pictures"
    (place / "dark").mkdir(parents=True)
    for colour in COLOURS:
        Image.new("RGB", (20, 10), colour).save(place / ("dark" if colour == "black" else "") / f"{colour}.png")
    return place


@pytest.fixture
def bring(folder: Path, model: Embedder) -> Callable[[], tuple[Collection, Indexed]]:
    """`bring()`: index the folder into the same collection again."""
    index = ExactIndex()

    def again() -> tuple[Collection, Indexed]:
        source = Source.read(folder)
        collection = open_mirror(index, "c", source, model, "what is this?")
        return collection, index_images(source, collection, model, max_pixels=10**6)

    return again


Bring = Callable[[], tuple[Collection, Indexed]]


def test_every_image_of_a_folder_is_found_by_itself(bring: Bring, model: Embedder, folder: Path) -> None:
    collection, done = bring()
    assert done == Indexed(embedded=5)
    assert collection.spec == CollectionSpec(width=16, model=model.digest, model_name=model.name, query="what is this?")
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    found = collection.fetch(names)
    assert found.ids == names
    for name, vector in zip(names, found.vectors, strict=True):
        assert collection.search(vector, 1)[0].id == name
    assert collection.fetch(["dark/black.png"]).metadata[0]["folder"] == "dark"
    assert "folder" not in collection.fetch(["red.png"]).metadata[0]


def test_what_is_unchanged_is_not_embedded_again_and_what_is_gone_disappears(
    bring: Bring, folder: Path, model: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection, _ = bring()
    embedded: list[int] = []
    embed = type(model).images

    def spy(self: Embedder, pixels: np.ndarray, query: str) -> np.ndarray:
        embedded.append(len(pixels))
        return embed(self, pixels, query)

    monkeypatch.setattr(Embedder, "images", spy)
    assert bring()[1] == Indexed(unchanged=5)
    before = collection.fetch(["green.png"]).vectors
    Image.new("RGB", (9, 30), "orange").save(folder / "green.png")
    (folder / "blue.png").unlink()
    shutil.copy(folder / "red.png", folder / "new.png")
    assert bring()[1] == Indexed(embedded=2, unchanged=3, removed=1)
    assert embedded == [2]
    assert not np.allclose(collection.fetch(["green.png"]).vectors, before)
    assert collection.fetch(["blue.png"]).ids == []
    np.testing.assert_allclose(collection.fetch(["new.png"]).vectors, collection.fetch(["red.png"]).vectors, atol=1e-6)


def test_new_metadata_of_an_old_image_are_written_without_embedding_it(
    bring: Bring, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection, _ = bring()
    before = collection.fetch(["red.png"])
    lines = [{"file_name": "red.png", "text": "a red picture", "year": 1999}, {"file_name": "red.png", "text": "warm"}]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    monkeypatch.delattr(Embedder, "images")
    assert bring()[1] == Indexed(described=1, unchanged=4)
    after = collection.fetch(["red.png"])
    assert after.metadata[0] == before.metadata[0] | {"text": ["a red picture", "warm"], "year": 1999}
    np.testing.assert_array_equal(after.vectors, before.vectors)


def test_an_interrupted_index_resumes_where_it_was(
    bring: Bring, folder: Path, monkeypatch: pytest.MonkeyPatch, model: Embedder
) -> None:
    from archlab.index import images

    monkeypatch.setattr(images, "BATCH", 2)
    embed, calls = type(model).images, []

    def cut_off(self: Embedder, pixels: np.ndarray, query: str) -> np.ndarray:
        if len(calls) == 1:
            raise KeyboardInterrupt
        calls.append(len(pixels))
        return embed(self, pixels, query)

    monkeypatch.setattr(Embedder, "images", cut_off)
    with pytest.raises(KeyboardInterrupt):
        bring()
    monkeypatch.setattr(Embedder, "images", embed)
    assert bring()[1] == Indexed(embedded=3, unchanged=2)


def test_a_broken_image_is_skipped_named_and_its_old_vector_goes(bring: Bring, folder: Path) -> None:
    collection, _ = bring()
    (folder / "green.png").write_bytes((folder / "green.png").read_bytes()[:-30])
    (folder / "fake.jpg").write_text("no image")
    Image.new("1", (4000, 4000)).save(folder / "huge.png")
    _, done = bring()
    assert (done.unchanged, done.removed, len(done.skipped)) == (4, 1, 3)
    skipped = " ".join(done.skipped)
    for part in ("green.png: truncated or damaged", "fake.jpg: is none of JPEG", "huge.png: 4000 x 4000"):
        assert part in skipped
    assert collection.count() == 4


def test_a_folder_of_broken_images_or_without_any_is_refused_and_nothing_is_removed(bring: Bring, folder: Path) -> None:
    collection, _ = bring()
    for path in folder.rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"none of its 5 images can be read; .*is none of JPEG"):
        bring()
    for path in folder.rglob("*.png"):
        path.unlink()
    with pytest.raises(UserError, match="holds no image of the kinds"):
        bring()
    assert collection.count() == 5


def test_points_of_others_in_the_collection_stay(bring: Bring, folder: Path) -> None:
    collection, _ = bring()
    collection.upsert(Points(["other"], np.ones((1, 16)), [{"by": "hand"}]))
    (folder / "red.png").unlink()
    assert bring()[1].removed == 1
    assert collection.fetch(["other"]).ids == ["other"]


def test_a_collection_takes_no_other_folder_question_or_model(
    bring: Bring, folder: Path, model: Embedder, tmp_path: Path
) -> None:
    index, source = ExactIndex(), Source.read(folder)
    index_images(source, open_mirror(index, "c", source, model, "what?"), model, max_pixels=10**6)
    shutil.copytree(folder, tmp_path / "other")
    with pytest.raises(UserError, match=r"'c': its images were asked 'what\?', not 'who\?'"):
        open_mirror(index, "c", source, model, "who?")
    with pytest.raises(UserError, match="'c': mirrors another folder than"):
        open_mirror(index, "c", Source.read(tmp_path / "other"), model, "what?")
    index.create("d", CollectionSpec(width=16, model="0" * 64, model_name="runs/old", query="what?"))
    with pytest.raises(UserError, match=r"'d': holds vectors of runs/old \(000000000000\), not of .*; use that model"):
        open_mirror(index, "d", source, model, "what?")


# --- the commands


def test_a_folder_is_indexed_and_searched_from_the_shell(
    folder: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    (folder / "metadata.jsonl").write_text('{"file_name": "red.png", "year": 1999, "text": "[b]warm[/b]"}')
    (folder / "fake.jpg").write_text("no image")
    place = str(tmp_path / "index")
    assert main(["index", str(folder), "--model", str(run), "--out", place]) == 0
    said = capsys.readouterr()
    assert said.out == f"collection pictures: 5 images (5 embedded, 1 skipped) in {place}\n"
    assert "skipped: fake.jpg: is none of" in said.err
    assert main(["index", str(folder), "--model", str(run), "--out", place]) == 0
    assert "(5 unchanged, 1 skipped)" in capsys.readouterr().out

    assert main(["search", "a red circle", "--index", place, "--k", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["collection"] == "pictures"
    assert len(found["hits"]) == 3
    with EmbeddedIndex(tmp_path / "index") as index:
        expected = index.open("pictures").search(Embedder.open(str(run)).texts(["a red circle"])[0], 3)
    assert [hit["id"] for hit in found["hits"]] == [hit.id for hit in expected]
    np.testing.assert_allclose([hit["score"] for hit in found["hits"]], [hit.score for hit in expected], atol=1e-6)

    assert (
        main(
            [
                "search",
                "--image",
                str(folder / "red.png"),
                "--index",
                place,
                "--where",
                "year>=1990",
                "--where",
                "year<2000",
            ]
        )
        == 0
    )
    shown = capsys.readouterr().out
    assert "red.png" in shown
    assert "1.000" in shown
    assert "year=1999, text=[b]warm[/b]" in shown
    assert "green.png" not in shown
    assert "_source" not in shown

    assert main(["search", "x", "--index", place, "--where", "year=3"]) == 0
    assert capsys.readouterr().out == "collection pictures: nothing found\n"


def test_a_search_names_what_it_needs(
    tmp_path: Path, run: Path, tiny_run: Callable[[str], Run], capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*argv: str) -> str:
        assert main(list(argv)) == 2
        return capsys.readouterr().err

    place = str(tmp_path / "index")
    assert "index: does not exist; make it with 'archlab index FOLDER" in refused("search", "x", "--index", place)
    with EmbeddedIndex(tmp_path / "index") as index:
        assert index.names() == []
    assert "is empty; run 'archlab index'" in refused("search", "x", "--index", place)
    with EmbeddedIndex(tmp_path / "index") as index:
        index.create("a", CollectionSpec(width=16, model="f" * 64, model_name=str(run)))
        index.create("b", CollectionSpec(width=3))
    assert "holds a, b; name one with --collection" in refused("search", "x", "--index", place)
    assert "holds vectors of" in refused("search", "x", "--index", place, "--collection", "a")
    wide = refused("search", "x", "--index", place, "--collection", "b", "--model", str(run))
    assert "vector of 16 numbers: the collection holds vectors of 3" in wide
    assert "needs a text in quotes, or --image, and not both" in refused("search")
    assert "needs a text in quotes, or --image, and not both" in refused("search", "x", "--image", "y.png")
    assert "condition '=3'" in refused("search", "x", "--index", place, "--where", "=3")


def test_only_a_run_with_a_common_space_can_index(
    folder: Path, tiny_run: Callable[[str], Run], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    argv = ["index", str(folder), "--out", str(tmp_path / "index"), "--model"]
    assert main([*argv, str(tiny_run("token").folder)]) == 2
    assert (
        "the token arm puts texts and images into no common space; give a run of the vljepa arm"
        in capsys.readouterr().err
    )
    assert main([*argv, str(tmp_path / "nothing")]) == 2
    assert "config.yaml is missing; give the folder of a finished run" in capsys.readouterr().err
    assert main(["index", str(tmp_path / "nowhere"), "--out", str(tmp_path / "index")]) == 2
    assert "nowhere: no such file or folder; correct the path" in capsys.readouterr().err
    assert not (tmp_path / "index").exists()


def test_the_newest_shipped_run_is_the_default(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_run: Callable[[str], Run]
) -> None:
    monkeypatch.setattr(embedder_module, "_shipped", lambda: tmp_path)
    with pytest.raises(UserError, match="no run of the vljepa arm is shipped; give the folder of one with --model"):
        Embedder.open()
    shutil.copytree(tiny_run("token").folder, tmp_path / "scenes-token")
    shutil.copytree(run, tmp_path / "scenes-vljepa")
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "config.yaml").write_text("method: lejepa")
    assert Embedder.open().name == "scenes-vljepa"
    assert Embedder.open("scenes-vljepa").digest == Embedder.open(str(run)).digest


@pytest.mark.parametrize(
    ("place", "name"), [("my pictures", "my-pictures"), ("Café 1.tar", "Caf-1"), ("日本", "images")]
)
def test_a_collection_is_named_after_its_folder(tmp_path: Path, place: str, name: str) -> None:
    assert command._name_of(tmp_path / place) == name


def test_reserved_metadata_are_those_of_the_mirror(bring: Bring, folder: Path) -> None:
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "red.png", SOURCE: "x", DIGEST: "y"}))
    collection, _ = bring()
    assert collection.fetch(["red.png"]).metadata[0][SOURCE] == str(folder.resolve())
    assert bring()[1] == Indexed(unchanged=5)


def test_misused_options_of_the_command_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*argv: str) -> Any:
        assert main(list(argv)) == 2
        return capsys.readouterr().err

    assert "takes one folder of images, or 'migrate FROM TO'" in refused("index", "a", "b")
    assert "--model: is for indexing images; migrate takes FROM and TO alone" in refused(
        "index", "migrate", "a", "b", "--model", "x"
    )
