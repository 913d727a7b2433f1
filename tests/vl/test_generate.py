from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from archlab.data.batch import Batch
from archlab.errors import UserError
from archlab.train.checkpoint import save_checkpoint
from archlab.train.run import Run, readout_of
from archlab.train.setup import Setup
from archlab.vl.arms import build_arm
from archlab.vl.generate import generate


@pytest.fixture(params=["token", "vljepa"])
def talkative(request: pytest.FixtureRequest, tiny_setup: Setup, tmp_path: Path) -> tuple[Path, Any]:
    """A checkpoint whose arm says another thing of every image, and how that arm is asked."""
    config = replace(tiny_setup.config, arm=request.param)
    arm: Any = build_arm(config, tiny_setup.encoder.width, tiny_setup.tokenizer.vocab_size, 0)
    with torch.no_grad():
        for trunk in (arm.backbone.trunk, *([arm.decoder.trunk] if request.param == "vljepa" else [])):
            for parameter in trunk.parameters():
                parameter.mul_(3)
    metrics = {"encoder_digest": tiny_setup.encoder.digest}
    save_checkpoint(tmp_path / "run", arm, config, tiny_setup.tokenizer, metrics, "card")
    return tmp_path / "run", readout_of(arm, tiny_setup)


def test_says_what_the_arm_says_of_the_picture_and_the_question(
    talkative: tuple[Path, Any], tiny_setup: Setup, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, readout = talkative
    said = []
    for image, question in ((0, "what colour is it?"), (1, "what colour is it?"), (0, "how many stars are there?")):
        pixels = tiny_setup.dataset["test"].images[image : image + 1]
        Image.fromarray(pixels[0]).save(tmp_path / "picture.png")
        generate(folder, tmp_path / "picture.png", question)
        query, mask = map(torch.from_numpy, tiny_setup.tokenizer.encode([question], 48))
        request = Batch.without_target(tiny_setup.encoder.encode(torch.from_numpy(pixels)), query, mask)
        said.append(capsys.readouterr().out)
        assert said[-1] == readout.speak(request)[0] + "\n"
    assert len(set(said)) == 3  # image and question both matter


def test_an_arm_that_does_not_speak_is_refused(tiny_run: Callable[[str], Run], tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "picture.png")
    with pytest.raises(UserError, match=r"the supervised arm does not speak; give a run of the token or the vljepa"):
        generate(tiny_run("supervised").folder, tmp_path / "picture.png", None)
