from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.clips import greys, write_clip

from archlab.data.batch import Batch
from archlab.data.clips import ClipReader
from archlab.data.images import FileImage
from archlab.errors import UserError
from archlab.train.checkpoint import save_checkpoint
from archlab.train.run import Run, readout_of
from archlab.train.setup import Setup
from archlab.vl.answering import Answerer
from archlab.vl.arms import build_arm
from archlab.vl.clip_encoder import ClipEncoder
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


@pytest.mark.parametrize("arm", ["token", "vljepa"])
def test_says_what_the_arm_says_of_a_clip(
    arm: Any, tiny_setup: Setup, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder: Any = ClipEncoder.over(tiny_setup.encoder, 6, 4)  # type: ignore[arg-type]
    config = replace(tiny_setup.config, arm=arm, data=replace(tiny_setup.config.data, frames=6))
    model: Any = build_arm(config, encoder.width, tiny_setup.tokenizer.vocab_size, 0)
    with torch.no_grad():
        for trunk in (model.backbone.trunk, *([model.decoder.trunk] if arm == "vljepa" else [])):
            for parameter in trunk.parameters():
                parameter.mul_(3)
    metrics = {"encoder_digest": encoder.digest}
    save_checkpoint(tmp_path / "run", model, config, tiny_setup.tokenizer, metrics, "card")
    answerer = Answerer.open(tmp_path / "run")
    Image.new("RGB", (64, 64), (60, 60, 60)).save(tmp_path / "still.png")
    said = []
    for path in (write_clip(tmp_path / "a.mp4", greys(6)), tmp_path / "still.png"):
        pixels = ClipReader(64, 6, 10**6, 60).read(FileImage(path))
        generate(tmp_path / "run", path, "how does it move?")
        said.append(capsys.readouterr().out)
        assert said[-1] == answerer.readout.speak(answerer.request(pixels[None], ["how does it move?"]))[0] + "\n"
    assert said[0] != said[1]  # what moves is seen


def test_a_clip_is_not_shown_to_a_run_that_was_trained_on_images(
    talkative: tuple[Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = talkative
    write_clip(tmp_path / "a.mp4", greys(6))
    with pytest.raises(UserError, match=r"a\.mp4: is a clip, and this run was trained on images; .+ archlab watch RUN"):
        generate(folder, tmp_path / "a.mp4", None)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.gif")
    generate(folder, tmp_path / "a.gif", None)  # an image, too
    assert capsys.readouterr().out
