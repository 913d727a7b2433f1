from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from archlab.config import DataConfig
from archlab.data.example import Dataset
from archlab.data.sources import load_dataset
from archlab.evaluate.retrieval_floor import describe, main, retrieval_floor

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220), "yellow": (230, 220, 20)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures whose captions name their colour, in noise."""
    generator, lines = np.random.default_rng(0), []
    for number in range(120):
        name = list(COLOURS)[number % 4]
        pixels = np.array(COLOURS[name]) + generator.normal(0, 12, (64, 64, 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(tmp_path / f"{number}.png")
        lines.append(f'{{"file_name": "{number}.png", "text": "a wall painted {name} all over, number {number}"}}')
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    return tmp_path


def read(folder: Path, side: int = 64) -> Dataset:
    return load_dataset(DataConfig(source=str(folder)), side)


@pytest.mark.parametrize("side", [64, 96])
def test_what_gradients_and_colours_tell_is_found_at_any_size_of_image(folder: Path, side: int) -> None:
    floor = retrieval_floor(read(folder, side), items=100)
    for direction in ("image_to_text", "text_to_image"):
        first, five = (floor.values[f"retrieval/{direction}_r{k}"] for k in (1, 5))
        assert len(first) == 12
        assert five.mean() > 0.9  # three of the twelve captions name the right colour
        assert first.mean() < 0.9  # and nothing tells those apart
        assert floor.chance[f"retrieval/{direction}_r1"] == pytest.approx(1 / 12)


def test_the_gallery_is_that_of_the_arms(folder: Path) -> None:
    assert len(retrieval_floor(read(folder), items=5).values["retrieval/image_to_text_r1"]) == 5


def test_captions_that_share_no_word_have_no_floor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = []
    for number in range(30):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(tmp_path / f"{number}.png")
        lines.append(f'{{"file_name": "{number}.png", "text": "word{number}"}}')
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    assert not retrieval_floor(read(tmp_path), items=5).values
    assert main([str(tmp_path)]) == 2
    assert "no word occurs in two training captions" in capsys.readouterr().err


def test_pictures_are_described_by_their_edges_and_their_colours() -> None:
    upright, lying = np.zeros((2, 1, 64, 64, 3), dtype=np.uint8)
    upright[:, :, ::4], lying[:, ::4] = 255, 255
    across, along = describe(upright)[0], describe(lying)[0]
    assert across.shape == (8 * 8 * (9 + 3 + 3) + 4 * 64,)
    cells = across[: 8 * 8 * 9].reshape(8, 8, 9), along[: 8 * 8 * 9].reshape(8, 8, 9)
    assert cells[0].argmax(-1).ravel().tolist() == [0] * 64
    assert cells[1].argmax(-1).ravel().tolist() == [4] * 64
    np.testing.assert_allclose(across[8 * 8 * 9 :], along[8 * 8 * 9 :], atol=1e-6)  # as much of each colour everywhere
    assert np.abs(describe(np.full((1, 64, 64, 3), 200, np.uint8))[0, : 8 * 8 * 9]).max() == 0


def test_the_command_prints_one_line_or_says_what_is_wrong(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder)]) == 0
    assert capsys.readouterr().out.startswith("image to text among 12 captions, first form: R@1 ")
    assert main([]) == 2
    assert main(["no-such-set"]) == 2
    assert capsys.readouterr().err.count("\n") == 2
