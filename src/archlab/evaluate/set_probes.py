"""Probes of a frozen encoder on real images of known classes, beside the same probe of what their pixels give away.

The splits are those of the sets: test photos of clothing are by people who took none of the training photos. Both
probes are fitted on the same images, so that they can be compared; a floor that was fitted on more is higher.

Shape legend: n images, H x W pixels, D features.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from archlab.config import DataConfig
from archlab.data.device import device_of
from archlab.data.example import Split
from archlab.data.sources import load_dataset
from archlab.evaluate.encoder_probes import TRAINING_ITEMS, Found, Sets, linear, nearest
from archlab.evaluate.probes import Labelled
from archlab.evaluate.retrieval_floor import describe

if TYPE_CHECKING:
    from archlab.vl.encoder import FrozenEncoder

PROBED = ("eurosat", "clothing")
"""Named sets of which every image has a class."""
_LIMITS = {"train": TRAINING_ITEMS, "validation": 500, "test": 1500}  # images of each split, at most
_BATCH = 200


class Pictures(NamedTuple):
    """Images, uint8 RGB (n, H, W, 3), and the class of each, (n,)."""

    images: np.ndarray
    classes: np.ndarray


class Known(NamedTuple):
    """A set: its pictures by split, what its pixels give away, and the digest of each split."""

    pictures: dict[str, Pictures]
    pixels: Found
    digests: tuple[str, ...]


@torch.inference_mode()
def probe_set(encoder: FrozenEncoder, name: str, seed: int) -> dict[str, Found]:
    """Probes fitted on training images of a set, their penalty chosen on validation, asked about test images.

    Args:
        name: one of `PROBED`.
        seed: with which the encoder's images were read, should the set be cut: what it saw is not asked.

    Returns:
        Probe -> whether each test image is right, and its number. `pooled/NAME`: linear, of the mean token; `knn/NAME`:
        nearest neighbours of it; `pixels/NAME`: linear, of gradients and colours, whatever the encoder.
    """
    known = _known(name, encoder.image_size, seed)
    sets = _sets({split: (_mean_tokens(encoder, one.images), one.classes) for split, one in known.pictures.items()})
    return {f"pooled/{name}": linear(sets), f"knn/{name}": nearest(sets), f"pixels/{name}": known.pixels}


def set_digests(name: str, image_size: int, seed: int) -> tuple[str, ...]:
    """Hashes of all that `probe_set` asks."""
    return _known(name, image_size, seed).digests


@lru_cache(maxsize=2 * len(PROBED))
def _known(name: str, image_size: int, seed: int) -> Known:
    dataset = load_dataset(DataConfig(source=name, seed=seed), image_size)
    pictures = {split: _pictures(dataset[split], limit) for split, limit in _LIMITS.items()}
    pixels = linear(_sets({split: (describe(one.images), one.classes) for split, one in pictures.items()}))
    return Known(pictures, pixels, tuple(dataset[split].digest for split in _LIMITS))


def _pictures(split: Split, limit: int) -> Pictures:
    """At most `limit` images of a split, the same ones whenever they are asked for."""
    classes = {one.image: one.meaning for one in split.examples if one.task == "vqa"}
    rows = np.sort(np.random.default_rng(0).permutation(sorted(classes))[:limit])
    images = np.concatenate([split.images[row : row + 1] for row in rows.tolist()])
    return Pictures(images, np.array([classes[row] for row in rows.tolist()]))


def _mean_tokens(encoder: FrozenEncoder, images: np.ndarray) -> np.ndarray:
    """(n, D)."""
    from archlab.vl.encoder import normalise

    batches = [torch.from_numpy(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
    device = device_of(encoder.vit)
    return torch.cat([encoder.vit(normalise(one.to(device))).mean(1) for one in batches]).cpu().numpy()


def _sets(of: dict[str, tuple[np.ndarray, np.ndarray]]) -> Sets:
    train, validation, test = (
        Labelled(features, classes, np.arange(len(classes))) for features, classes in (of[split] for split in _LIMITS)
    )
    return train, validation, test
