"""X-encoders that others trained: features of the reference, averaged, whitened, cached, and named by a digest."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.checkpoints import SIDE, VISION, save_preprocessor, save_text_encoder, save_vision
from transformers import BeitConfig, BeitModel, ConvNextConfig, ConvNextModel, SiglipVisionConfig, SiglipVisionModel

from archlab.config import EncoderConfig
from archlab.data.example import Split
from archlab.data.features import FeatureStore
from archlab.errors import UserError
from archlab.interop.preprocessing import Preprocessing
from archlab.vl.pretrained_encoder import PretrainedEncoder
from archlab.vl.x_encoder import open_encoder

IMAGES = torch.randint(0, 256, (5, SIDE, SIDE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
PATCHES = (SIDE // 4) ** 2


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`folder_of(name)`: a checkpoint of that family. Shared: copy it to change it."""

    @cache
    def saved(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        save_vision(name, folder)
        return folder

    return saved


def opened(folder: Path, **options: Any) -> PretrainedEncoder:
    encoder = open_encoder(EncoderConfig(weights=str(folder), **options))
    assert isinstance(encoder, PretrainedEncoder)
    return encoder


def split(images: torch.Tensor = IMAGES, digest: str = "images") -> Split:
    return Split("train", images.numpy(), [], digest, digest)


@torch.no_grad()
def reference_states(name: str, folder: Path, frames: int = 2) -> torch.Tensor:
    """States of patches (B, N, D) as the classes of `transformers` give them."""
    from transformers import AutoModel

    model: Any = AutoModel.from_pretrained(folder).eval()
    pixels = Preprocessing.read(folder)(IMAGES)
    if name == "vjepa":
        return model.get_vision_features(pixels[:, None].repeat(1, frames, 1, 1, 1))
    if name == "clip":  # the last norm is applied to the class token only; ours applies it to the patches too
        states = model.vision_model(pixel_values=pixels).last_hidden_state
        return model.vision_model.post_layernorm(states)[:, 1:]
    if name == "siglip":
        return model.vision_model(pixel_values=pixels).last_hidden_state
    skip = {"vit": 1, "dinov2": 3}[name]
    return model(pixel_values=pixels).last_hidden_state[:, skip:]


@pytest.mark.parametrize("name", VISION)
def test_features_are_the_states_of_the_reference(name: str, folder_of: Callable[[str], Path]) -> None:
    encoder = opened(folder_of(name))
    features = encoder.encode(IMAGES)
    assert features.shape == (5, PATCHES, encoder.width) == (5, encoder.tokens, encoder.width)
    assert (features.dtype, encoder.image_size, encoder.implementation) == (torch.float32, SIDE, "archlab")
    torch.testing.assert_close(features, reference_states(name, folder_of(name)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", VISION)
def test_only_the_part_that_sees_is_kept_and_it_is_frozen(name: str, folder_of: Callable[[str], Path]) -> None:
    model = opened(folder_of(name)).model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not {"text", "text_head", "image_head", "predictor"} & dict(model.named_children()).keys()


def test_a_still_image_fills_a_clip(folder_of: Callable[[str], Path]) -> None:
    short, long = (opened(folder_of("vjepa"), frames=frames) for frames in (0, 6))
    assert (short.frames, long.frames, long.tokens) == (2, 6, PATCHES)
    states = reference_states("vjepa", folder_of("vjepa"), frames=6).unflatten(1, (3, PATCHES))
    torch.testing.assert_close(long.encode(IMAGES), states.mean(1), atol=1e-4, rtol=1e-4)
    assert short.digest != long.digest
    with pytest.raises(UserError, match=r"encoder.frames=3: this model reads 2 at once"):
        opened(folder_of("vjepa"), frames=3)
    with pytest.raises(UserError, match=r"encoder.frames=4: is for models of video"):
        opened(folder_of("vit"), frames=4)


@pytest.mark.parametrize("name", ["vjepa", "dinov2"])
@pytest.mark.parametrize("tokens", [1, 4, 9])
def test_visual_tokens_are_means_of_neighbouring_patches(
    name: str, tokens: int, folder_of: Callable[[str], Path]
) -> None:
    encoder, all_patches = opened(folder_of(name), tokens=tokens), opened(folder_of(name))
    found, states = encoder.encode(IMAGES), all_patches.encode(IMAGES).unflatten(1, (8, 8))
    assert encoder.tokens == tokens == found.shape[1]
    if tokens == 1:
        torch.testing.assert_close(found[:, 0], states.mean((1, 2)))
    if tokens == 4:  # the second is the right upper quarter
        torch.testing.assert_close(found[:, 1], states[:, :4, 4:].mean((1, 2)))
    assert encoder.digest != all_patches.digest


@pytest.mark.parametrize("tokens", [5, 81])
def test_numbers_of_tokens_that_no_square_of_patches_has_are_refused(
    tokens: int, folder_of: Callable[[str], Path]
) -> None:
    with pytest.raises(UserError, match=rf"encoder.tokens={tokens}: must be a square number of at most 64, such as 1"):
        opened(folder_of("vit"), tokens=tokens)


def test_many_images_are_the_same_as_few(folder_of: Callable[[str], Path]) -> None:
    encoder = opened(folder_of("vit"), tokens=4)
    many = IMAGES.repeat(8, 1, 1, 1)
    torch.testing.assert_close(encoder.encode(many), encoder.encode(IMAGES).repeat(8, 1, 1))


def test_fitted_features_are_white_over_the_training_images(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    images = torch.randint(0, 256, (300, SIDE, SIDE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    raw = opened(folder_of("dinov2"), tokens=16)
    fitted = raw.fitted(split(images), tmp_path)
    white = fitted.encode(images).flatten(0, 1)
    assert white.mean(0).abs().max() < 0.1
    off = torch.corrcoef(white.T) - torch.eye(raw.width)
    assert off.abs().max() < 0.2 < (torch.corrcoef(raw.encode(images).flatten(0, 1).T) - torch.eye(raw.width)).max()


def test_whitening_is_fitted_once_and_belongs_to_the_images(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    raw = opened(folder_of("vit"), tokens=4)
    fitted = raw.fitted(split(), tmp_path)
    (file,) = tmp_path.iterdir()
    stamp = file.stat().st_mtime_ns
    assert raw.fitted(split(), tmp_path).digest == fitted.digest != raw.digest
    assert file.stat().st_mtime_ns == stamp
    assert raw.fitted(split(digest="others"), tmp_path).digest != fitted.digest


def test_what_was_fitted_travels_with_the_run(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    raw = opened(folder_of("vit"), tokens=4)
    fitted = raw.fitted(split(), tmp_path / "cache")
    fitted.save(tmp_path / "run")
    restored = opened(folder_of("vit"), tokens=4).restored(tmp_path / "run")
    assert restored.digest == fitted.digest
    assert torch.equal(restored.encode(IMAGES), fitted.encode(IMAGES))
    with pytest.raises(UserError, match=r"whitening.safetensors: is missing"):
        raw.restored(tmp_path)


def test_features_are_cached_as_those_of_the_built_in_encoder(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    encoder = opened(folder_of("siglip"), tokens=4).fitted(split(), tmp_path)
    store = FeatureStore.build(split(), encoder, tmp_path)
    expected = encoder.encode(IMAGES).to(torch.float16).float().numpy()
    assert np.array_equal(store.read(np.arange(5)), expected)
    other = opened(folder_of("siglip"), tokens=1).fitted(split(), tmp_path)
    assert FeatureStore.build(split(), other, tmp_path).digest != store.digest


def test_other_weights_or_preprocessing_are_another_encoder(tmp_path: Path) -> None:
    save_vision("vit", tmp_path)
    first = opened(tmp_path).digest
    assert opened(tmp_path).digest == first
    save_preprocessor(tmp_path, image_mean=[0.5, 0.5, 0.5])
    assert opened(tmp_path).digest != first


def beit(folder: Path) -> Any:
    config = BeitConfig(
        image_size=SIDE, patch_size=8, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40
    )
    model = BeitModel(config).eval()
    model.save_pretrained(folder)
    return model, lambda pixels: model(pixel_values=pixels).last_hidden_state[:, 1:]


def convnext(folder: Path) -> Any:
    model = ConvNextModel(ConvNextConfig(hidden_sizes=[8, 12, 16, 24], depths=[1, 1, 1, 1])).eval()
    model.save_pretrained(folder)
    return model, lambda pixels: model(pixel_values=pixels).last_hidden_state.flatten(2).mT


def siglip_tower(folder: Path) -> Any:
    config = SiglipVisionConfig(
        image_size=SIDE, patch_size=8, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40
    )
    model = SiglipVisionModel(config).eval()
    model.save_pretrained(folder)
    return model, lambda pixels: model(pixel_values=pixels).last_hidden_state


@torch.no_grad()
@pytest.mark.parametrize("made", [beit, convnext, siglip_tower])
def test_a_family_that_we_do_not_have_is_adapted_and_marked(made: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    _, states = made(tmp_path)
    save_preprocessor(tmp_path)
    encoder = opened(tmp_path)
    assert encoder.implementation == "transformers"
    expected = states(Preprocessing.read(tmp_path)(IMAGES))
    torch.testing.assert_close(encoder.encode(IMAGES), expected, atol=1e-5, rtol=1e-5)
    assert encoder.tokens == expected.shape[1]
    assert not any(parameter.requires_grad for parameter in encoder.model.parameters())


def test_what_cannot_be_opened_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_text_encoder("bert", tmp_path)
    with pytest.raises(UserError, match=r"preprocessor_config.json is missing"):
        opened(tmp_path)
    save_preprocessor(tmp_path)
    with pytest.raises(UserError, match=r"a bert is no vision model"):
        opened(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "mystery"}))
    with pytest.raises(UserError, match=r"encoder.weights=.+: neither our families nor transformers read it") as caught:
        opened(tmp_path)
    assert "\n" not in str(caught.value)

    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(UserError, match=r"someone/dinov9: no such folder, and the hub does not give it \(no network\)"):
        open_encoder(EncoderConfig(weights="someone/dinov9"))


def test_a_hub_id_is_downloaded(folder_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(folder_of("dinov2")))
    assert open_encoder(EncoderConfig(weights="facebook/dinov2-base")).digest == opened(folder_of("dinov2")).digest


def test_features_have_about_unit_variance(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    """As the trunk's visual projection expects; untreated ones do not."""
    for name in VISION:
        fitted = opened(folder_of(name), tokens=4).fitted(split(), tmp_path)
        assert 0.5 < fitted.encode(IMAGES).std() < 1.5


def test_a_replaced_whitening_is_another_encoder(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    fitted = opened(folder_of("vit"), tokens=4).fitted(split(), tmp_path)
    assert fitted.whitening is not None
    other = replace(fitted, whitening=replace(fitted.whitening, fitted_on="other images"))
    assert other.digest != fitted.digest
