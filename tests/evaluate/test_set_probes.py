"""Probes on real sets: fitted on training images, asked about test images, beside the pixels of the same images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.evaluate.classes import CLASSES, SIZES, classes_of
from torch import Tensor, nn

from archlab.config import PretrainConfig
from archlab.data.example import Dataset
from archlab.evaluate import set_probes
from archlab.evaluate.set_probes import PROBED, probe_set, set_digests
from archlab.vl.encoder import FrozenEncoder


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Dataset]]:
    """The sets that are read, by name; their places are taken by made-up ones."""
    made = {"eurosat": classes_of("eurosat"), "clothing": classes_of("clothing", 3, told=False)}
    monkeypatch.setattr(set_probes, "load_dataset", lambda config, size: made[config.source])
    set_probes._known.cache_clear()
    yield made
    set_probes._known.cache_clear()


class Colour(nn.Module):
    """Says of a picture its colour, or nothing."""

    config = SimpleNamespace(image_size=64, patch_size=8)

    def __init__(self, blind: bool = False) -> None:
        super().__init__()
        self.blind = blind

    def forward(self, images: Tensor) -> Tensor:
        colour = images.mean((2, 3))[:, None].expand(-1, 4, -1)  # (B, N, 3)
        return torch.zeros_like(colour) if self.blind else colour


def means(encoder: nn.Module, name: str) -> dict[str, float]:
    found = probe_set(FrozenEncoder(encoder, 2, "", {}), name, 0)  # type: ignore[arg-type]
    assert all(len(right) == len(images) == SIZES["test"] for right, images in found.values())
    assert all(len(np.unique(images)) == SIZES["test"] for _, images in found.values())
    return {probe: float(right.mean()) for probe, (right, _) in found.items()}


def test_what_features_know_is_read_off_and_what_they_do_not_is_not(pictures: dict[str, Dataset]) -> None:
    known, blind = means(Colour(), "eurosat"), means(Colour(blind=True), "eurosat")
    assert known.keys() == {"pooled/eurosat", "knn/eurosat", "pixels/eurosat"}
    assert known["pooled/eurosat"] == known["knn/eurosat"] == 1.0
    assert blind["pooled/eurosat"] < 0.6
    assert blind["knn/eurosat"] < 0.6
    assert blind["pixels/eurosat"] == known["pixels/eurosat"] == 1.0  # the floor is that of the pictures


def test_classes_that_pictures_do_not_show_are_guessed(pictures: dict[str, Dataset]) -> None:
    """Were a test picture among those that a probe is fitted on, its neighbours would know it."""
    assert all(score < 0.6 for score in means(Colour(), "clothing").values())


def test_at_most_so_many_pictures_are_read(pictures: dict[str, Dataset], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(set_probes, "_LIMITS", {"train": 40, "validation": 10, "test": 20})
    known = set_probes._known("eurosat", 64, 0)
    assert {split: len(one.images) for split, one in known.pictures.items()} == set_probes._LIMITS
    for split, one in known.pictures.items():
        colours = np.array([CLASSES[name] for name in one.classes])
        assert np.abs(one.images.mean((1, 2)) - colours).max() < 40, split  # each beside its own class


def test_what_is_asked_has_a_digest(pictures: dict[str, Dataset]) -> None:
    assert set_digests("eurosat", 64, 0) == tuple(f"{split} {number} True" for number, split in enumerate(SIZES))


@pytest.mark.parametrize("name", PROBED)
def test_real_sets_are_asked_about_pictures_that_no_probe_was_fitted_on(
    name: str, real_data: Path, monkeypatch: pytest.MonkeyPatch, tiny_pretraining: PretrainConfig
) -> None:
    monkeypatch.setenv("ARCHLAB_DATA", str(real_data))
    monkeypatch.setattr(set_probes, "_LIMITS", {"train": 120, "validation": 40, "test": 60})
    set_probes._known.cache_clear()
    found = probe_set(FrozenEncoder.random(tiny_pretraining), name, 0)
    assert found.keys() == {f"{probe}/{name}" for probe in ("pooled", "knn", "pixels")}
    assert all(len(right) == 60 for right, _ in found.values())
    pictures = {split: one.images for split, one in set_probes._known(name, 64, 0).pictures.items()}
    of = {split: {image.tobytes() for image in images} for split, images in pictures.items()}
    assert not of["test"] & (of["train"] | of["validation"])
    set_probes._known.cache_clear()
