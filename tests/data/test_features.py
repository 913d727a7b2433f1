from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from archlab.config import PretrainConfig
from archlab.data.example import Example, Split
from archlab.data.features import FeatureStore, augment, cache_folder
from archlab.vl.encoder import FrozenEncoder

SIDE = 32
IMAGES = np.random.default_rng(0).integers(0, 256, (300, SIDE, SIDE, 3), dtype=np.uint8)  # more than one chunk


class Interrupted(Exception):
    """The process dies in the middle."""


@dataclass
class Counting:
    """Images that count what is read of them, and may fail."""

    pixels: np.ndarray
    fails_after: int = 10**9
    read: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, rows: slice) -> np.ndarray:
        if len(self.read) >= self.fails_after:
            raise Interrupted
        part = self.pixels[rows]
        self.read.extend(range(*rows.indices(len(self))))
        return part


def split(images: Counting) -> Split:
    examples = [Example(str(i), i, "caption", "caption", ["q"], ["t"], "m") for i in range(len(images))]
    return Split("train", images, examples, "texts and images", hashlib.sha256(images.pixels.tobytes()).hexdigest())


@pytest.fixture(scope="module")
def encoder(tiny_pretraining: PretrainConfig) -> FrozenEncoder:
    return FrozenEncoder.random(replace(tiny_pretraining, image_size=SIDE))


def test_features_are_what_the_encoder_says_of_each_image_in_each_view(encoder: FrozenEncoder, tmp_path: Path) -> None:
    store = FeatureStore.build(split(Counting(IMAGES)), encoder, tmp_path, views=2)
    assert store.array.shape == (3, len(IMAGES), encoder.tokens, encoder.width)
    rows, views = np.array([299, 0, 256, 7]), np.array([0, 2, 1, 1])
    seen = np.concatenate([augment(IMAGES[row : row + 1], row, view) for row, view in zip(rows, views, strict=True)])
    features = store.read(rows, views)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, encoder.encode(torch.from_numpy(seen)).numpy(), rtol=2e-3, atol=2e-3)
    np.testing.assert_array_equal(store.read(rows), store.read(rows, np.zeros(4, int)))


def test_features_are_computed_once_in_one_pass(encoder: FrozenEncoder, tmp_path: Path) -> None:
    images = Counting(IMAGES)
    first = FeatureStore.build(split(images), encoder, tmp_path, views=1)
    assert images.read == list(range(len(IMAGES)))
    again = FeatureStore.build(split(images), encoder, tmp_path, views=1)
    assert len(images.read) == len(IMAGES)
    assert again.digest == first.digest
    np.testing.assert_array_equal(again.array, first.array)
    assert len(list(tmp_path.iterdir())) == 1


def test_features_are_mapped_not_loaded(encoder: FrozenEncoder, tmp_path: Path) -> None:
    store = FeatureStore.build(split(Counting(IMAGES[:4])), encoder, tmp_path)
    assert isinstance(store.array, np.memmap)
    assert store.array.dtype == np.float16
    with pytest.raises(ValueError, match="read-only"):
        store.array[0, 0, 0, 0] = 1


def test_every_input_that_matters_has_a_file_of_its_own_and_texts_do_not(
    encoder: FrozenEncoder, tmp_path: Path
) -> None:
    plain = split(Counting(IMAGES[:4]))
    brighter = split(Counting(IMAGES[:4] | 1))
    other = replace(encoder, digest="other weights")
    reworded = replace(plain, digest="other texts", name="test_forms", examples=plain.examples[:1])
    digest = FeatureStore.build(plain, encoder, tmp_path).digest
    assert FeatureStore.build(reworded, encoder, tmp_path).digest == digest
    assert len(list(tmp_path.iterdir())) == 1
    changed = [
        FeatureStore.build(brighter, encoder, tmp_path),
        FeatureStore.build(plain, other, tmp_path),
        FeatureStore.build(plain, encoder, tmp_path, views=1),
    ]
    assert len({digest, *(store.digest for store in changed)}) == 4
    assert len(list(tmp_path.iterdir())) == 4


def test_an_interruption_leaves_nothing_that_could_pass_for_features(encoder: FrozenEncoder, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        FeatureStore.build(split(Counting(IMAGES, fails_after=256)), encoder, tmp_path)
    assert list(tmp_path.iterdir()) == []
    images = Counting(IMAGES)
    FeatureStore.build(split(images), encoder, tmp_path)
    assert images.read == list(range(len(IMAGES)))


def test_the_file_of_a_killed_process_is_not_taken_for_features(encoder: FrozenEncoder, tmp_path: Path) -> None:
    """While features are computed there is no file under the final name, for another process to find half full."""

    class Looking(Counting):
        def __getitem__(self, rows: slice) -> np.ndarray:
            assert not list(tmp_path.glob("*.npy"))
            return super().__getitem__(rows)

    FeatureStore.build(split(Looking(IMAGES)), encoder, tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 1


@pytest.mark.parametrize("kept", [0, 5, 60, 128, -1], ids=["empty", "magic", "header", "no-data", "cut"])
def test_a_damaged_file_is_made_again(encoder: FrozenEncoder, tmp_path: Path, kept: int) -> None:
    whole = np.array(FeatureStore.build(split(Counting(IMAGES[:4])), encoder, tmp_path).array)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:kept])
    images = Counting(IMAGES[:4])
    np.testing.assert_array_equal(FeatureStore.build(split(images), encoder, tmp_path).array, whole)
    assert images.read == [0, 1, 2, 3]
    assert list(tmp_path.iterdir()) == [path]


def test_the_user_says_where_features_are_cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ARCHLAB_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("ARCHLAB_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "archlab"


@given(st.integers(0, 299), st.integers(0, 299), st.integers(0, 4))
def test_a_view_depends_on_nothing_but_its_image_and_row(first: int, other: int, view: int) -> None:
    start, stop = sorted((first, other))
    together = augment(IMAGES[start : stop + 1], start, view)
    alone = augment(IMAGES[stop : stop + 1], stop, view)
    np.testing.assert_array_equal(together[-1:], alone)


def test_views_differ_from_each_other_and_between_images_and_the_plain_one_is_plain() -> None:
    same = np.repeat(IMAGES[:1], 5, 0)
    views = np.stack([augment(same, 0, view) for view in range(3)])
    np.testing.assert_array_equal(views[0], same)
    assert len(np.unique(views.reshape(15, -1), axis=0)) == 1 + 2 * 5


@pytest.mark.parametrize("view", [1, 2, 3])
def test_a_view_keeps_colours_places_and_orientation(view: int) -> None:
    """A red left half and a blue right half stay where and what they are: nothing that an answer could depend on."""
    image = np.zeros((40, SIDE, SIDE, 3), np.uint8)
    image[:, :, : SIDE // 2, 0] = image[:, :, SIDE // 2 :, 2] = 200
    image[:, : SIDE // 2, :, 1] = 90
    seen = augment(image, 0, view).astype(float)
    assert seen.shape == image.shape
    left, right = seen[:, :, : SIDE // 2 - 3].mean((1, 2)), seen[:, :, SIDE // 2 + 3 :].mean((1, 2))
    assert (left[:, 0] > right[:, 0] + 120).all()
    assert (right[:, 2] > left[:, 2] + 120).all()
    assert (seen[:, : SIDE // 2 - 3, :, 1].mean((1, 2)) > seen[:, SIDE // 2 + 3 :, :, 1].mean((1, 2)) + 50).all()
    edge = seen[:, SIDE // 2 + 5].mean(0)[:, 0]  # a row, over 40 images: the border wanders by at most 3 pixels
    assert edge[SIDE // 2 - 4] > 150
    assert edge[SIDE // 2 + 3] < 50
