from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from archlab.config import PretrainConfig
from archlab.data.scenes.render import render
from archlab.data.scenes.world import HELD_OUT_PAIRS, HELD_OUT_STYLES, SceneConfig, sample_scenes
from archlab.data.sources import image_source
from archlab.errors import UserError
from archlab.models.vit import ViT
from archlab.train import pretrain as module
from archlab.train.pretrain import pretrain
from archlab.train.streams import ImageBatch, ImageStream
from archlab.vl.encoder import FrozenEncoder, normalise, vit_config

IMAGES = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def photos(tmp_path: Path) -> str:
    """The user's own images: a folder of grey ones, each of a level of its own, which no scene is."""
    folder = tmp_path / "photos"
    folder.mkdir()
    lines = []
    for number in range(40):
        Image.new("RGB", (64, 64), (5 * number,) * 3).save(folder / f"{number}.png")
        lines.append(json.dumps({"file_name": f"{number}.png", "text": f"grey {number}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return str(folder)


def is_grey(batch: ImageBatch) -> list[bool]:
    return [bool(image.min() == image.max()) for image in batch.clean]


def test_a_batch_is_a_function_of_the_step_alone(tiny_pretraining: PretrainConfig, photos: str) -> None:
    config = replace(tiny_pretraining, sources=["scenes", photos])
    stream, other = ImageStream(config), ImageStream(config)
    later = other(7)
    for step in (0, 3, 7):
        stream(step + 1)
        batch, again = stream(step), other(step)
        assert torch.equal(batch.images, again.images)
        assert torch.equal(batch.clean, again.clean)
    assert torch.equal(other(7).images, later.images)
    assert not torch.equal(stream(0).clean, stream(1).clean)
    batches = [ImageStream(replace(tiny_pretraining, seed=seed))(step) for seed, step in ((0, 0), (1, 0), (0, 1))]
    noise = [batch.images - batch.clean for batch in batches]
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise[0], noise[2])


def test_scenes_come_from_a_stream_of_their_own_and_hold_no_held_out_combination(
    tiny_pretraining: PretrainConfig,
) -> None:
    stream, size = ImageStream(tiny_pretraining), tiny_pretraining.optimizer.batch_size
    world = SceneConfig(max_noise=0.0)
    for step in (0, 5):
        scenes = sample_scenes(size, world, split="pretrain", start=step * size)
        expected = normalise(torch.from_numpy(render(scenes, 64)))
        assert torch.equal(stream(step).clean, expected)  # the picture of these scenes and of no others
        for scene in scenes:
            assert not {(one.colour, one.shape) for one in scene.objects} & HELD_OUT_PAIRS
            assert scene.background.style not in HELD_OUT_STYLES
    for split in ("train", "validation", "test"):
        seen = render(sample_scenes(40, world, split=split), 64)
        ours = np.concatenate([stream(step).clean.numpy() for step in range(5)])
        distance = np.abs(normalise(torch.from_numpy(seen)).numpy()[:, None] - ours[None]).max((2, 3, 4))
        assert distance.min() > 0.1


def test_no_scene_comes_twice(tiny_pretraining: PretrainConfig) -> None:
    stream = ImageStream(tiny_pretraining)
    images = torch.cat([stream(step).clean for step in range(6)]).flatten(1)
    assert len(torch.unique(images, dim=0)) == 6 * tiny_pretraining.optimizer.batch_size


def test_the_target_is_clean_and_the_input_noisy(tiny_pretraining: PretrainConfig) -> None:
    batch = ImageStream(tiny_pretraining)(0)
    noise = (batch.images - batch.clean).flatten(1)
    assert batch.images.dtype == torch.float32
    amplitudes = noise.abs().amax(1)
    assert (amplitudes > 0).all()
    assert (amplitudes <= 40 / 60 + 1e-6).all()  # as loud as the loudest scene
    assert amplitudes.max() > 2 * amplitudes.min()  # every image has an amplitude of its own
    assert (noise.mean(1).abs() < 0.03 * amplitudes).all()
    assert len(torch.unique(noise[0])) > 1000  # every pixel is disturbed on its own


def test_sources_share_a_batch_as_configured(tiny_pretraining: PretrainConfig, photos: str) -> None:
    other = shutil.copytree(photos, f"{photos}-too")
    config = replace(tiny_pretraining, sources=["scenes", photos, other], scenes_share=0.5)
    assert is_grey(ImageStream(config)(0)) == [False] * 4 + [True] * 4
    assert is_grey(ImageStream(replace(config, scenes_share=0.0))(0)) == [True] * 8
    assert is_grey(ImageStream(replace(config, scenes_share=1.0))(0)) == [False] * 8
    assert is_grey(ImageStream(replace(config, sources=["scenes"]))(0)) == [False] * 8  # no other to share with
    assert is_grey(ImageStream(replace(config, sources=[photos]))(0)) == [True] * 8


def test_only_training_images_of_a_source_are_drawn_and_all_of_them(
    tiny_pretraining: PretrainConfig, photos: str
) -> None:
    stream = ImageStream(replace(tiny_pretraining, sources=[photos]))
    drawn = {float(image[0, 0, 0]) for step in range(60) for image in stream(step).clean}
    training = normalise(torch.from_numpy(image_source(photos)[:]))
    assert drawn == {float(image[0, 0, 0]) for image in training}
    assert len(training) < 40


def test_an_unknown_source_is_refused_and_claims_no_folder(tiny_pretraining: PretrainConfig, tmp_path: Path) -> None:
    config = replace(tiny_pretraining, sources=["easy-vqqa"])
    with pytest.raises(UserError, match="did you mean 'easy-vqa'"):
        pretrain(config, tmp_path / "encoder")
    assert not (tmp_path / "encoder").exists()


def interrupt_at(step: int) -> type[ImageStream]:
    class Interrupting(ImageStream):
        def _draw(self, at: int, frames: int = 1) -> tuple[torch.Tensor, np.random.Generator]:
            if at == step:
                signal.raise_signal(signal.SIGINT)
            return super()._draw(at, frames)

    return Interrupting


def scores(encoder: FrozenEncoder) -> list[Any]:
    return [(point["step"], point["loss"], point["scores"]) for point in encoder.metrics["curve"]]


METHODS = {
    "mae": {},
    "ijepa": {"method": "ijepa"},
    "vjepa": {"method": "vjepa"},
    "lejepa": {"method": "lejepa", "stem": "convolutional"},
    "muon": {"method": "lejepa", "stem": "convolutional", "update": "muon"},
}


@pytest.mark.parametrize("options", METHODS.values(), ids=METHODS)
def test_an_interrupted_and_resumed_pretraining_equals_an_uninterrupted_one(
    options: dict[str, Any],
    tiny_pretraining: PretrainConfig,
    few_probes: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Masks and sketches are random, and batch norms count: all of it must come back."""
    config = replace(tiny_pretraining, optimizer=replace(tiny_pretraining.optimizer, steps=4), **options)
    whole = pretrain(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(module, "ImageStream", interrupt_at(1))
        with pytest.raises(KeyboardInterrupt):
            pretrain(config, tmp_path / "resumed")
    assert (tmp_path / "resumed" / "state.pt").exists()
    resumed = pretrain(config, tmp_path / "resumed")
    for name, tensor in whole.vit.state_dict().items():
        assert torch.equal(resumed.vit.state_dict()[name], tensor), name
    assert resumed.digest == whole.digest
    assert scores(resumed) == scores(whole)
    assert resumed.metrics["monitor"] == whole.metrics["monitor"]
    assert not (tmp_path / "resumed" / "state.pt").exists()


def test_pretraining_changes_the_encoder_and_says_what_it_gained(
    tiny_encoder: Path, tiny_pretraining: PretrainConfig
) -> None:
    encoder = FrozenEncoder.load(str(tiny_encoder))
    start = FrozenEncoder.random(tiny_pretraining)
    assert not torch.equal(encoder.encode(IMAGES), start.encode(IMAGES))
    metrics = encoder.metrics
    assert (metrics["steps"], metrics["images"]) == (2, 16)
    assert [point["step"] for point in metrics["curve"]] == [0, 2]
    assert metrics["probes"] == {
        "random initialisation": metrics["curve"][0]["scores"],
        "pretrained": metrics["curve"][-1]["scores"],
    }
    card = (tiny_encoder / "card.md").read_text()
    assert "(1 blocks, width 16)" in card
    assert "16 visual tokens of 64 features" in card
    assert "**Variant:** float32, as it was trained." in card
    for name, before in metrics["probes"]["random initialisation"].items():
        assert f"| {name} | {before:.3f} | {metrics['probes']['pretrained'][name]:.3f} |" in card


def test_features_are_white_on_training_images(tiny_encoder: Path, tiny_pretraining: PretrainConfig) -> None:
    """A trunk that reads them raw would learn the few large directions and hardly the rest."""
    encoder = FrozenEncoder.load(str(tiny_encoder))
    stream = ImageStream(tiny_pretraining)
    images = torch.cat([stream.clean(2 + number) for number in range(8)])
    white = encoder.vit(images).flatten(0, 1)
    raw = ViT.forward(encoder.vit, images).flatten(0, 1)
    torch.testing.assert_close(white.mean(0), torch.zeros(16), atol=1e-3, rtol=0)
    variances, before = (torch.linalg.eigvalsh(states.T.cov()) for states in (white, raw))
    # All but the one that LayerNorm takes away, and those that hardly vary.
    assert (variances > 0.9).sum() >= 8
    assert variances.max() < 1.01
    assert before[-1] / before[-8] > 3 * variances[-1] / variances[-8]


def test_the_encoder_alone_is_kept(tiny_encoder: Path) -> None:
    """Config, weights, metrics and card; no tokenizer, no training state, no decoder among the weights."""
    names = {path.name for path in tiny_encoder.iterdir()}
    assert names == {"config.yaml", "model.safetensors", "metrics.json", "card.md"}
    encoder = FrozenEncoder.load(str(tiny_encoder))
    parameters = sum(parameter.numel() for parameter in encoder.vit.parameters())
    assert (tiny_encoder / "model.safetensors").stat().st_size < 4 * parameters + 4000


def test_probes_are_taken_before_now_and_then_and_at_the_end(
    tiny_pretraining: PretrainConfig, few_probes: None, tmp_path: Path
) -> None:
    config = replace(
        tiny_pretraining, probe_every=2, optimizer=replace(tiny_pretraining.optimizer, steps=5, batch_size=4)
    )
    encoder = pretrain(config, tmp_path / "encoder")
    assert [point["step"] for point in encoder.metrics["curve"]] == [0, 2, 4, 5]


def test_lejepa_keeps_the_encoder_alone(tiny_pretraining: PretrainConfig, few_probes: None, tmp_path: Path) -> None:
    config = replace(tiny_pretraining, method="lejepa", stem="convolutional")
    encoder = pretrain(config, tmp_path / "encoder")
    assert not [name for name in encoder.vit.state_dict() if "projector" in name or "thumbnail" in name]
    start = FrozenEncoder.random(config)
    assert not torch.equal(encoder.encode(IMAGES), start.encode(IMAGES))
    assert "LeJEPA" in (tmp_path / "encoder" / "card.md").read_text()


def test_muon_takes_another_way_than_adamw_and_the_card_says_so(
    tiny_pretraining: PretrainConfig, few_probes: None, tmp_path: Path
) -> None:
    cards, filters = [], []
    for update in ("adamw", "muon"):
        config = replace(tiny_pretraining, **METHODS["lejepa"], update=update)
        encoder = pretrain(config, tmp_path / update)
        filters.append(encoder.vit.get_parameter("patch_embedding.layers.1.0.weight"))
        cards.append((tmp_path / update / "card.md").read_text())
    assert not torch.allclose(*filters)
    assert ", AdamW, seed 0" in cards[0]
    assert ", Muon (AdamW for gains, biases and linear read-outs), seed 0" in cards[1]


def test_a_state_of_other_images_is_not_resumed(
    tiny_pretraining: PretrainConfig, few_probes: None, photos: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(tiny_pretraining, sources=[photos], optimizer=replace(tiny_pretraining.optimizer, steps=3))
    with monkeypatch.context() as patch:
        patch.setattr(module, "ImageStream", interrupt_at(1))
        with pytest.raises(KeyboardInterrupt):
            pretrain(config, tmp_path / "run")
    for number in range(40):
        Image.new("RGB", (64, 64), (5 * number + 1,) * 3).save(Path(photos) / f"{number}.png")
    with pytest.raises(UserError, match="belongs to a run with another configuration or other data"):
        pretrain(config, tmp_path / "run")


def test_finished_pretraining_is_opened_and_another_configuration_refused(
    tiny_pretraining: PretrainConfig, tiny_encoder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_encoder, tmp_path / "encoder")
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert pretrain(tiny_pretraining, folder).digest == FrozenEncoder.load(str(tiny_encoder)).digest
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"holds a run with scenes_share=0.7, not 0.5; name another with --out"):
        pretrain(replace(tiny_pretraining, scenes_share=0.5), folder)


def test_the_seed_decides_and_not_the_callers_random_numbers(
    tiny_pretraining: PretrainConfig, tiny_encoder: Path, few_probes: None, tmp_path: Path
) -> None:
    first = FrozenEncoder.load(str(tiny_encoder))
    torch.manual_seed(11)
    assert pretrain(tiny_pretraining, tmp_path / "second").digest == first.digest
    other = pretrain(replace(tiny_pretraining, seed=1), tmp_path / "other")
    assert not torch.equal(other.encode(IMAGES), first.encode(IMAGES))


def test_the_encoder_is_as_large_as_configured(tiny_pretraining: PretrainConfig) -> None:
    shape = vit_config(tiny_pretraining)
    assert (shape.image_size, shape.patch_size, shape.transformer) == (64, 8, tiny_pretraining.encoder)
    assert not shape.class_token
