"""What gradients and colours tell of a class, and what a question tells of its answer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from archlab.config import DataConfig
from archlab.data.example import Dataset
from archlab.data.sources import load_dataset
from archlab.evaluate.answer_floor import image_floor, main, question_floor

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220), "yellow": (230, 220, 20)}


def classes(folder: Path, *, shuffled: bool = False) -> Dataset:
    """Walls of four colours in noise, a folder for each; shuffled: whatever the colour."""
    generator = np.random.default_rng(0)
    for number in range(120):
        colour = list(COLOURS)[number % 4]
        pixels = np.array(COLOURS[colour]) + generator.normal(0, 12, (64, 64, 3))
        place = folder / (list(COLOURS)[generator.integers(4)] if shuffled else colour)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(place / f"{number}.png")
    return load_dataset(DataConfig(source=str(folder)), 64)


def questions(folder: Path, answers: tuple[str, ...]) -> Dataset:
    """Grey images of a wall: the first two answers are to one question, the others to another."""
    folder.mkdir()
    generator, lines = np.random.default_rng(0), []
    for number in range(200):
        Image.new("RGB", (16, 16), (number, number, number)).save(folder / f"{number}.png")
        asked = number % 2
        question = ("is there a wall", "which colour is the wall")[asked]
        answer = answers[2 * asked + int(generator.integers(2))]
        lines.append(json.dumps({"file_name": f"{number}.png", "question": question, "answer": answer}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return load_dataset(DataConfig(source=str(folder)), 64)


def test_classes_that_differ_in_colour_are_told_and_others_are_not(tmp_path: Path) -> None:
    floor = image_floor(classes(tmp_path / "told"), items=100)
    assert floor.values.keys() == {"classification/accuracy"}
    assert len(floor.values["classification/accuracy"]) == 12
    assert floor.means()["classification/accuracy"] > 0.9
    assert image_floor(classes(tmp_path / "not", shuffled=True), items=100).means()["classification/accuracy"] < 0.7


def test_as_many_items_are_scored_as_the_arms_answer(tmp_path: Path) -> None:
    assert len(image_floor(classes(tmp_path), items=5).values["classification/accuracy"]) == 5


def test_what_follows_from_the_question_is_known_and_the_rest_is_guessed(tmp_path: Path) -> None:
    dataset = questions(tmp_path / "told", ("yes", "yes", "red", "red"))
    floor = question_floor(dataset, items=1000)
    assert floor.means() == {"vqa/answer": 1.0, "vqa/yes/no": 1.0, "vqa/accuracy": 1.0}
    assert len(floor.values["vqa/accuracy"]) == len(dataset["test"].examples)
    guessed = question_floor(questions(tmp_path / "guessed", ("yes", "no", "red", "blue")), items=1000)
    assert guessed.means()["vqa/accuracy"] < 0.9


def test_a_single_answer_leaves_nothing_to_learn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not question_floor(questions(tmp_path / "data", ("yes",) * 4), items=100).values
    assert main([str(tmp_path / "data")]) == 2
    assert "all answers agree" in capsys.readouterr().err


def test_the_command_prints_one_line_per_metric_or_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classes(tmp_path / "classes")
    assert main([str(tmp_path / "classes")]) == 0
    assert capsys.readouterr().out.startswith("classification/accuracy: ")
    assert main([]) == 2
    assert main(["no-such-set"]) == 2
    assert capsys.readouterr().err.count("\n") == 2
