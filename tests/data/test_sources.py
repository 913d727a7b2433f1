"""Promises of `data.source`: what each spelling loads, and what a mistyped one says."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from archlab.config import DataConfig, PairsData, ScenesData
from archlab.data import sources
from archlab.data.example import Dataset
from archlab.data.sources import load_dataset
from archlab.errors import UserError

SMALL = ScenesData(train_images=30, validation_images=10, test_images=10)


def test_loading_scenes_and_own_files_imports_no_datasets_library(tmp_path: Path, png: Callable[..., bytes]) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for n in range(3):
            (tmp_path / name / f"{n}.png").write_bytes(png(n + 10 * ord(name)))
    program = f"""
import sys
from archlab.config import DataConfig, ScenesData
from archlab.data.sources import load_dataset
load_dataset(DataConfig(source={str(tmp_path)!r}), 8)
load_dataset(DataConfig(scenes=ScenesData(train_images=2, validation_images=2, test_images=2)), 32)
assert not {{"datasets", "pydantic"}} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_scenes_are_drawn_as_configured() -> None:
    dataset = load_dataset(DataConfig(scenes=SMALL, seed=3), 32)
    assert dataset.name == "scenes"
    assert dataset["train"].images[:].shape == (30, 32, 32, 3)
    assert len(dataset["validation"].images) == 10
    assert load_dataset(DataConfig(scenes=SMALL, seed=4), 32).digest() != dataset.digest()


def test_scenes_keep_the_kinds_asked_for_and_their_captions() -> None:
    whole = load_dataset(DataConfig(scenes=SMALL), 32)
    kind = whole["train"].examples[0].kind
    kept = load_dataset(DataConfig(scenes=dataclasses.replace(SMALL, kinds=[kind])), 32)
    for name, split in kept.splits.items():
        assert [one.id for one in split.examples] == [
            one.id for one in whole[name].examples if one.kind == kind or one.task == "caption"
        ]
        assert list(split.candidates) == [kind]
        assert split.digest != whole[name].digest
        assert split.image_digest == whole[name].image_digest


def test_an_unknown_kind_of_scene_question_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match=r"data\.scenes\.kinds: kind 'colr' is unknown; did you mean 'colou?r"):
        load_dataset(DataConfig(scenes=dataclasses.replace(SMALL, kinds=["colr"])), 32)


def test_a_path_is_read_as_the_user_s_own_data(tmp_path: Path, png: Callable[..., bytes]) -> None:
    for n in range(5):
        (tmp_path / f"{n}.png").write_bytes(png(n))
    lines = [json.dumps({"file_name": f"{n}.png", "text": "t"}) for n in range(5)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    dataset = load_dataset(DataConfig(source=str(tmp_path), pairs=PairsData(query="say it")), 16)
    assert dataset["train"].images[:1].shape == (1, 16, 16, 3)
    assert dataset["train"].examples[0].queries == ("say it",)


@pytest.mark.parametrize(
    ("source", "call"),
    [
        ("owner/name", ("owner/name", False)),
        ("owner/name:subset", ("owner/name:subset", False)),
        ("hub:squad", ("squad", False)),
        ("stream:owner/name", ("owner/name", True)),
    ],
)
def test_hub_ids_go_to_the_hub(source: str, call: tuple[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fake(name: str, _: PairsData, *, image_size: int, seed: int, stream: bool) -> Dataset:
        calls.append((name, stream, image_size, seed))
        return Dataset(name, {})

    monkeypatch.setattr(sources, "load_hub", fake)
    load_dataset(DataConfig(source=source, seed=5), 48)
    assert calls == [(*call, 48, 5)]


def test_a_set_name_with_a_place_goes_to_the_set(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(sources, "load_set", lambda name, place, *_, **options: calls.append((name, place, options)))
    load_dataset(DataConfig(source="eurosat:C:/data", seed=2), 64)
    load_dataset(DataConfig(source="emoji"), 64)
    assert calls == [
        ("eurosat", "C:/data", {"image_size": 64, "seed": 2}),
        ("emoji", "", {"image_size": 64, "seed": 0}),
    ]


@pytest.mark.parametrize(
    ("source", "remedy"),
    [
        ("scene", "did you mean 'scenes'"),
        ("easyvqa", "did you mean 'easy-vqa'"),
        ("openstax-foto", "did you mean 'openstax-photo'"),
        ("eurosta:hub", "did you mean 'eurosat'"),
        ("./no/such/folder", "give a path, a hub id, or one of scenes, easy-vqa"),
        ("/no/such/file.parquet", "give a path, a hub id, or one of scenes, easy-vqa"),
    ],
)
def test_an_unknown_source_suggests_the_nearest(source: str, remedy: str) -> None:
    with pytest.raises(UserError, match="is no known set, no file or folder and no hub id") as caught:
        load_dataset(DataConfig(source=source), 64)
    assert remedy in str(caught.value)
