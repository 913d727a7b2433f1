"""The network of the pixels: it learns what the images show, and nothing where labels have nothing to do with them."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from archlab.compare.end_to_end import _augment, check_one_question, train_end_to_end
from archlab.config import CompareConfig, DataConfig, RunConfig
from archlab.errors import UserError
from archlab.train.setup import Setup


@pytest.fixture
def setup(tiny_config: RunConfig, tmp_path: Path) -> Setup:
    """Pictures of one colour, and whether there is much red in it."""
    generator, lines = np.random.default_rng(0), []
    for split in ("train", "validation", "test"):
        for number in range(60):
            colour = tuple(int(value) for value in generator.integers(0, 256, 3))
            row = {"file_name": f"{split}-{number}.png", "split": split, "question": "is there much red"}
            Image.new("RGB", (32, 32), colour).save(tmp_path / row["file_name"])
            lines.append(json.dumps({**row, "answer": "yes" if colour[0] > 127 else "no"}))
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Setup.prepare(replace(tiny_config, data=DataConfig(source=str(tmp_path))))


CONFIG = CompareConfig(end_to_end_epochs=25)


@pytest.mark.slow
def test_it_learns_from_images_and_not_from_labels_of_others(setup: Setup) -> None:
    learned = train_end_to_end(setup, CONFIG)
    assert learned.values.keys() == {"vqa/yes/no", "vqa/accuracy"}
    assert learned.means()["vqa/accuracy"] > 0.9
    assert train_end_to_end(setup, CONFIG).means() == learned.means()  # by its seed

    train = setup.dataset["train"]
    moved = [dataclasses.replace(one, image=(one.image + 1) % len(train.images)) for one in train.examples]
    setup.dataset.splits["train"] = dataclasses.replace(train, examples=moved)
    assert train_end_to_end(setup, CONFIG).means()["vqa/accuracy"] < 0.8


def test_data_with_several_questions_are_refused(tiny_setup: Setup) -> None:
    with pytest.raises(UserError, match=r"end_to_end_epochs=25: the data ask \d+ questions"):
        check_one_question(tiny_setup, CONFIG)


def test_images_are_moved_whole_and_reflected_half_of_the_time() -> None:
    images = torch.arange(8 * 3 * 20 * 20, dtype=torch.float).view(8, 3, 20, 20)
    generator = torch.Generator().manual_seed(0)
    seen = torch.stack([_augment(images, generator) for _ in range(40)])  # (40, 8, 3, 20, 20)
    assert seen.shape[1:] == images.shape
    rising = seen[..., 10, 10] < seen[..., 10, 11]
    assert 0.35 < rising.float().mean() < 0.65
    assert torch.equal(rising[:, :, 0], rising[:, :, 2])  # all channels alike
    assert np.unique(seen[:, 0, 0, 10, 10].numpy()).size > 20
