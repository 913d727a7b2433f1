from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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


def test_what_gradients_and_colours_tell_is_found(folder: Path) -> None:
    floor = retrieval_floor(str(folder))
    assert floor.gallery == 12
    assert floor.recall[5] > 0.9  # three of the twelve captions name the right colour
    assert floor.recall[1] < 0.9  # and nothing tells those apart


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
