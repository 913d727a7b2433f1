from __future__ import annotations

import shutil
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest
import torch

from archlab.config import EncoderConfig, PretrainConfig
from archlab.errors import UserError
from archlab.objectives.next_token import NextToken
from archlab.train.setup import Setup
from archlab.vl.arms import TokenArm, build_arm
from archlab.vl.encoder import FrozenEncoder, normalise
from archlab.vl.x_encoder import open_encoder

IMAGES = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def encoder(tiny_encoder: Path) -> FrozenEncoder:
    return FrozenEncoder.load(str(tiny_encoder))


def test_says_how_many_tokens_of_how_many_features_it_gives(encoder: FrozenEncoder) -> None:
    features = encoder.encode(IMAGES)
    assert features.shape == (3, encoder.tokens, encoder.width) == (3, 16, 4 * 16)
    assert features.dtype == torch.float32
    assert encoder.image_size == 64


def test_a_visual_token_is_the_states_of_its_square_of_patches(encoder: FrozenEncoder) -> None:
    states = encoder.vit(normalise(IMAGES)).unflatten(1, (8, 8))  # rows and columns of patches
    for token in (0, 3, 4, 15):
        row, column = 2 * (token // 4), 2 * (token % 4)
        torch.testing.assert_close(
            encoder.encode(IMAGES)[:, token], states[:, row : row + 2, column : column + 2].flatten(1)
        )


def test_pixels_are_centred_colours_first(encoder: FrozenEncoder) -> None:
    pixels = torch.tensor([[[[0, 255, 127]]]], dtype=torch.uint8)
    torch.testing.assert_close(normalise(pixels).flatten(), torch.tensor([-127.5, 127.5, -0.5]) / 60)
    for row, column in ((0, 9), (50, 3)):
        torch.testing.assert_close(normalise(IMAGES)[1, :, row, column], (IMAGES[1, row, column] - 127.5) / 60)


def test_is_frozen(encoder: FrozenEncoder, tiny_setup: Setup) -> None:
    assert not any(parameter.requires_grad for parameter in encoder.vit.parameters())
    assert not encoder.vit.training
    features = encoder.encode(IMAGES)
    assert features.is_inference()
    with pytest.raises(RuntimeError, match="does not require grad"):
        features.sum().backward()
    before = {name: tensor.clone() for name, tensor in tiny_setup.encoder.vit.state_dict().items()}
    batch = tiny_setup.collator("train")(torch.arange(4).numpy())
    arm = build_arm(tiny_setup.config, tiny_setup.encoder.width, tiny_setup.tokenizer.vocab_size, 1)
    token = TokenArm(arm.backbone)
    NextToken()(token, batch).loss.backward()
    assert batch.features.grad is None
    assert not batch.features.requires_grad
    assert all(torch.equal(before[name], tensor) for name, tensor in tiny_setup.encoder.vit.state_dict().items())


def test_loads_what_was_pretrained_twice_the_same(encoder: FrozenEncoder, tiny_encoder: Path) -> None:
    again = FrozenEncoder.load(str(tiny_encoder))
    assert again.digest == encoder.digest
    assert torch.equal(again.encode(IMAGES), encoder.encode(IMAGES))
    assert set(again.metrics["probes"]) == {"random initialisation", "pretrained"}


def test_the_random_control_has_the_same_shape_and_other_features(
    encoder: FrozenEncoder, tiny_pretraining: PretrainConfig
) -> None:
    control = FrozenEncoder.random(tiny_pretraining)
    assert (control.tokens, control.width, control.image_size) == (encoder.tokens, encoder.width, encoder.image_size)
    assert not torch.allclose(control.encode(IMAGES), encoder.encode(IMAGES), atol=1e-2)
    assert torch.equal(FrozenEncoder.random(tiny_pretraining).encode(IMAGES), control.encode(IMAGES))
    other = FrozenEncoder.random(replace(tiny_pretraining, seed=1))
    assert not torch.allclose(other.encode(IMAGES), control.encode(IMAGES), atol=1e-2)


def test_encoders_with_other_features_have_other_digests(
    encoder: FrozenEncoder, tiny_pretraining: PretrainConfig
) -> None:
    """The digest is the key under which features are cached."""
    deeper = replace(tiny_pretraining, encoder=replace(tiny_pretraining.encoder, depth=2))
    configs = [tiny_pretraining, replace(tiny_pretraining, seed=1), deeper, replace(tiny_pretraining, merge=4)]
    digests = {encoder.digest, *(FrozenEncoder.random(config).digest for config in configs)}
    assert len(digests) == 5
    assert FrozenEncoder.random(tiny_pretraining).digest == FrozenEncoder.random(tiny_pretraining).digest


def test_drawing_a_random_encoder_leaves_the_callers_random_numbers_alone(tiny_pretraining: PretrainConfig) -> None:
    before = torch.get_rng_state()
    FrozenEncoder.random(tiny_pretraining)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_name_that_is_neither_shipped_nor_a_folder_is_refused() -> None:
    with pytest.raises(UserError, match=r"='mae-v9': is neither shipped \(.+\) nor a folder nor a hub id"):
        open_encoder(EncoderConfig(weights="mae-v9"))


def test_the_built_in_encoder_is_opened_by_name_or_folder_and_was_fitted_when_it_was_pretrained(
    tiny_encoder: Path, tiny_setup: Setup, encoder: FrozenEncoder, tmp_path: Path
) -> None:
    opened = open_encoder(EncoderConfig(weights=str(tiny_encoder)))
    assert opened.fitted(tiny_setup.dataset["train"], tmp_path) is opened
    opened.save(tmp_path)
    assert not list(tmp_path.iterdir())
    assert opened.restored(tmp_path).digest == encoder.digest
    assert isinstance(open_encoder(EncoderConfig()), FrozenEncoder)


@pytest.mark.parametrize("option", ["tokens", "frames"])
def test_the_built_in_encoder_refuses_options_of_others(option: str, tiny_encoder: Path) -> None:
    with pytest.raises(UserError, match=rf"encoder.{option}=4: is for checkpoints of transformers"):
        open_encoder(EncoderConfig(weights=str(tiny_encoder), **{option: 4}))


@pytest.mark.parametrize("name", ["config.yaml", "model.safetensors", "metrics.json"])
def test_an_encoder_that_lacks_a_file_is_refused(name: str, tiny_encoder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_encoder, tmp_path / "encoder")
    (folder / name).unlink()
    with pytest.raises(UserError, match=rf"{name} is missing"):
        FrozenEncoder.load(str(folder))


def test_damaged_or_exchanged_files_are_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(tiny_encoder, tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"\x10" * 100)
    with pytest.raises(UserError, match=r"model.safetensors is damaged"):
        FrozenEncoder.load(str(damaged))
    exchanged = shutil.copytree(tiny_encoder, tmp_path / "exchanged")
    text = (exchanged / "config.yaml").read_text()
    (exchanged / "config.yaml").write_text(text.replace("merge: 2", "merge: 4"))
    with pytest.raises(UserError, match=r"config.yaml is not the one"):
        FrozenEncoder.load(str(exchanged))


def test_every_shipped_encoder_opens() -> None:
    shipped = Path(str(resources.files("archlab"))) / "weights"
    names = [path.name for path in shipped.iterdir() if not (path / "tokenizer.json").exists()]
    assert names
    for name in names:
        encoder = FrozenEncoder.load(name)
        side = encoder.image_size
        assert torch.isfinite(encoder.encode(torch.zeros(1, side, side, 3, dtype=torch.uint8))).all()
