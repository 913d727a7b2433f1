"""Promises about encoders of clips: what they see of each frame, that time is told, and that it is bounded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.checkpoints import SIDE, save_vision

from archlab.config import EncoderConfig, PretrainConfig
from archlab.data.example import Split
from archlab.data.features import FeatureStore, augment
from archlab.errors import UserError
from archlab.models.vjepa import as_clips
from archlab.vl.clip_encoder import TIME, ClipEncoder
from archlab.vl.encoder import FrozenEncoder, normalise
from archlab.vl.x_encoder import open_encoder

CLIPS = torch.randint(0, 256, (3, 6, SIDE, SIDE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def images(tiny_pretraining: PretrainConfig) -> FrozenEncoder:
    return FrozenEncoder.random(replace(tiny_pretraining, image_size=SIDE))


@pytest.fixture
def video(tiny_pretraining: PretrainConfig) -> FrozenEncoder:
    return FrozenEncoder.random(replace(tiny_pretraining, image_size=SIDE, method="vjepa"))


def split(clips: torch.Tensor = CLIPS) -> Split:
    return Split("train", clips.numpy(), [], "clips", "clips")


def test_a_model_of_images_sees_each_frame_alone(images: FrozenEncoder) -> None:
    encoder = ClipEncoder.over(images, 6, 4)
    features = encoder.encode(CLIPS)
    assert features.shape == (3, encoder.tokens, encoder.width) == (3, 24, images.width + TIME)
    for frame in range(6):
        alone = images.encode(CLIPS[:, frame])  # (3, 4, D)
        torch.testing.assert_close(features[:, 4 * frame : 4 * frame + 4, :-TIME], alone)


def test_tokens_of_a_frame_are_averaged_to_as_many_as_asked_for(images: FrozenEncoder) -> None:
    one = ClipEncoder.over(images, 6, 1).encode(CLIPS)
    assert one.shape[1] == 6
    torch.testing.assert_close(one[:, 2, :-TIME], images.encode(CLIPS[:, 2]).mean(1))
    with pytest.raises(UserError, match=r"encoder\.tokens=9: must be at most 4"):
        ClipEncoder.over(images, 6, 9)


def test_every_moment_has_a_time_of_its_own_and_all_tokens_of_it_the_same(images: FrozenEncoder) -> None:
    for frames in (1, 2, 8, 64):
        encoder = ClipEncoder.over(images, frames, 4)
        still = torch.zeros(1, SIDE, SIDE, 3, dtype=torch.uint8)
        times = encoder.encode(still)[0, :, -TIME:].unflatten(0, (frames, 4))
        assert torch.equal(times, times[:, :1].expand_as(times))
        assert len(np.unique(times[:, 0].numpy().round(5), axis=0)) == frames
        if frames == 8:
            torch.testing.assert_close(times[:, 0].pow(2).mean(0), torch.ones(TIME))  # as large as features are


def test_the_order_of_frames_matters(images: FrozenEncoder) -> None:
    encoder = ClipEncoder.over(images, 6, 4)
    forth, back = encoder.encode(CLIPS), encoder.encode(CLIPS.flip(1))
    # The tokens are the same, their times are not: no reordering of one gives the other.
    torch.testing.assert_close(forth[..., :-TIME].sum(1), back[..., :-TIME].sum(1), atol=1e-3, rtol=1e-3)
    product = torch.einsum("bnd,bne->bde", forth[..., :-TIME], forth[..., -TIME:])
    reverse = torch.einsum("bnd,bne->bde", back[..., :-TIME], back[..., -TIME:])
    assert (product - reverse).abs().max() > 0.1


def test_an_image_fills_a_clip(images: FrozenEncoder) -> None:
    encoder = ClipEncoder.over(images, 6, 4)
    still = CLIPS[:, 0]
    torch.testing.assert_close(encoder.encode(still), encoder.encode(still[:, None].expand(-1, 6, -1, -1, -1)))


def test_a_model_of_video_sees_the_clip(video: FrozenEncoder) -> None:
    encoder = ClipEncoder.over(video, 6, 4)
    assert (video.tubelet, encoder.moments, encoder.tokens) == (2, 3, 12)
    features = encoder.encode(CLIPS)
    with torch.inference_mode():
        pixels = torch.stack([normalise(clip) for clip in CLIPS])
        states = video.vit(pixels)  # (3, 3 * 16, D)
    assert states.shape[1] == 3 * 16
    top_left = states.unflatten(1, (3, 4, 4, -1))[:, 1, :2, :2].flatten(1)  # the second moment's first square
    torch.testing.assert_close(features[:, 4, :-TIME], top_left)
    # What happens later changes what is seen before: it is no model of single frames.
    changed = CLIPS.clone()
    changed[:, 4:] = 0
    assert (encoder.encode(changed)[:, :4] - features[:, :4]).abs().max() > 1e-4
    with pytest.raises(UserError, match=r"data\.frames=5: this encoder reads 2 at once; give a multiple"):
        ClipEncoder.over(video, 5, 4)


@pytest.mark.parametrize("name", ["vit", "vjepa"])
def test_checkpoints_read_clips_and_are_whitened_over_them(name: str, tmp_path: Path) -> None:
    save_vision(name, tmp_path / name)
    config = EncoderConfig(weights=str(tmp_path / name))
    raw: Any = open_encoder(config, 6)
    still: Any = open_encoder(replace(config, tokens=4))
    assert raw.tokens == 4 * (3 if name == "vjepa" else 6)
    features = raw.encode(CLIPS)
    if name == "vit":
        torch.testing.assert_close(features[:, 8:12, :-TIME], still.encode(CLIPS[:, 2]))
    else:
        pixels = still.preprocessing(CLIPS.flatten(0, 1)).unflatten(0, (3, 6))
        with torch.no_grad():
            states = still.model.patch_states(as_clips(pixels, 6)).unflatten(1, (3, 8, 8))  # (B, f, h, w, D)
        torch.testing.assert_close(features[:, 6, :-TIME], states[:, 1, 4:, :4].mean((1, 2)), atol=1e-5, rtol=1e-5)
    many = torch.randint(0, 256, (40, 6, SIDE, SIDE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    fitted = raw.fitted(split(many), tmp_path / "cache")
    white = fitted.encode(many)[..., :-TIME].flatten(0, 1)
    assert white.mean(0).abs().max() < 0.1
    assert 0.5 < white.std() < 1.5
    assert fitted.digest != raw.digest
    fitted.save(tmp_path / "run")
    assert torch.equal(open_encoder(config, 6).restored(tmp_path / "run").encode(many[:2]), fitted.encode(many[:2]))


def test_more_clips_at_once_are_the_same_as_few(tmp_path: Path) -> None:
    save_vision("vjepa", tmp_path)
    encoder = open_encoder(EncoderConfig(weights=str(tmp_path)), 6)
    torch.testing.assert_close(encoder.encode(CLIPS.repeat(9, 1, 1, 1, 1)), encoder.encode(CLIPS).repeat(9, 1, 1))


def test_frames_and_tokens_are_part_of_the_digest(images: FrozenEncoder) -> None:
    encoders = [ClipEncoder.over(images, frames, tokens) for frames, tokens in ((6, 4), (8, 4), (6, 1))]
    assert len({images.digest, *(encoder.digest for encoder in encoders)}) == 4


def test_the_encoder_of_a_configuration_reads_clips_where_it_says_so(tiny_encoder: Path) -> None:
    config = EncoderConfig(weights=str(tiny_encoder))
    clips, images = open_encoder(config, 8), open_encoder(config)
    assert (clips.clip_frames, images.clip_frames) == (8, 0)
    assert (clips.tokens, clips.image_size, clips.implementation) == (32, 64, "archlab")
    assert clips.model is not None
    assert clips.metrics == images.metrics
    assert open_encoder(replace(config, tokens=1), 8).tokens == 8
    for settings, message in (
        ({"tokens": 3}, r"encoder\.tokens=3: must be a square number"),
        ({"frames": 2}, r"encoder\.frames=2: is for still images; leave it at 0 with data\.frames=8"),
    ):
        with pytest.raises(UserError, match=message):
            open_encoder(replace(config, **settings), 8)  # type: ignore[arg-type]


def test_features_of_clips_are_cached_and_read_as_those_of_images(images: FrozenEncoder, tmp_path: Path) -> None:
    encoder = ClipEncoder.over(images, 6, 4)
    store = FeatureStore.build(split(), encoder, tmp_path, views=1)
    assert store.array.shape == (2, 3, encoder.tokens, encoder.width)
    found = store.read(np.array([2, 0]), np.array([0, 1]))
    moved = torch.from_numpy(augment(CLIPS[:1].numpy(), 0, 1))
    expected = torch.cat([encoder.encode(CLIPS[2:]), encoder.encode(moved)]).numpy()
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)


def test_few_frames_are_in_memory_however_long_clips_are(images: FrozenEncoder, tmp_path: Path) -> None:
    asked: list[int] = []

    class Counting:
        def __len__(self) -> int:
            return 20

        def __getitem__(self, rows: slice) -> np.ndarray:
            picked = range(20)[rows]
            asked.append(64 * len(picked))
            return np.zeros((len(picked), 64, SIDE, SIDE, 3), np.uint8)

    clips = Split("train", Counting(), [], "many", "many")
    FeatureStore.build(clips, ClipEncoder.over(images, 64, 1), tmp_path)
    assert max(asked) <= 256
    assert sum(asked) == 20 * 64


def test_a_view_moves_all_frames_of_a_clip_alike() -> None:
    still = np.repeat(np.random.default_rng(0).integers(0, 256, (1, 1, 16, 16, 3), np.uint8), 5, 1)
    seen = augment(np.repeat(still, 2, 0), 7, 3).astype(int)
    assert seen.shape == (2, 5, 16, 16, 3)
    # Between frames there is noise alone; between views of two clips there is more.
    assert np.abs(seen[0, 0] - seen[0, 4]).mean() < 8 < np.abs(seen[0, 0] - seen[1, 0]).mean()
