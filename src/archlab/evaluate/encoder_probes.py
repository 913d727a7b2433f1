"""Probes of a frozen encoder on the scenes: what can be read off its features, linearly and by nearest neighbours.

Shape legend: n images, N visual tokens, D features, h x w patches.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from archlab.data.device import device_of
from archlab.data.scenes.render import label_maps, render
from archlab.data.scenes.world import Scene, SceneConfig, SceneObject, sample_scenes
from archlab.evaluate.probes import Labelled, knn_probe, linear_probe

if TYPE_CHECKING:
    from archlab.vl.encoder import FrozenEncoder

_COUNTS = {"train": 2000, "fit": 500, "validation": 800}  # "fit" chooses the penalty and is cut off the train split
_BATCH = 200
_COVERED = 0.25  # share of a patch that an object must cover to give it its label
TRAINING_ITEMS = 2000  # that a probe is fitted on, at most

_OBJECT_LABELS: dict[str, Callable[[SceneObject], str]] = {
    "shape": lambda one: one.shape,
    "colour": lambda one: one.colour,
}


@torch.inference_mode()
def probe_encoder(encoder: FrozenEncoder) -> dict[str, float]:
    """Accuracy of all probes on validation scenes; see `probe_items`."""
    return {name: float(right.mean()) for name, (right, _) in probe_items(encoder, "validation").items()}


@torch.inference_mode()
def probe_items(encoder: FrozenEncoder, split: str) -> dict[str, Found]:
    """Probes fitted on training scenes and asked about those of a split.

    Returns:
        Probe -> whether each item is right, and its image. `pooled/count`: number of objects from the mean token.
        `tokens/shape`, `tokens/colour`: of the only object of a scene, from all tokens side by side. `dense/shape`,
        `dense/colour`: of the object that covers a patch, from that patch alone. These are linear; `knn/count`,
        `knn/shape` and `knn/colour` ask the nearest neighbours for what the first three ask for.
    """
    crowded = _Probes(encoder, SceneConfig(image_size=encoder.image_size), split)
    alone = _Probes(encoder, SceneConfig(image_size=encoder.image_size, max_objects=1), split)
    counted = crowded.select(
        lambda x, scenes, _: Labelled(x.mean(1), np.array([len(s.objects) for s in scenes]), np.arange(len(scenes)))
    )
    found = {"pooled/count": linear(counted), "knn/count": nearest(counted)}
    for name, label in _OBJECT_LABELS.items():
        single = alone.select(lambda x, scenes, _, label=label: _alone(x, scenes, label))  # type: ignore[misc]
        dense = crowded.select(lambda x, scenes, owners, label=label: _dense(x, scenes, owners, label))  # type: ignore[misc]
        found[f"tokens/{name}"], found[f"knn/{name}"] = linear(single), nearest(single)
        found[f"dense/{name}"] = linear(dense)
    return found


Sets = tuple[Labelled, Labelled, Labelled]
"""What a probe is fitted on, what chooses its penalty, and what it is asked."""

Found = tuple[np.ndarray, np.ndarray]
"""Whether each item is right, and its image."""


class _Probes:
    """Features and truth of the sets of one kind of scenes."""

    def __init__(self, encoder: FrozenEncoder, config: SceneConfig, split: str) -> None:
        device = device_of(encoder.vit)
        self.sets = []
        for name in ("train", "fit", split):
            scenes, images, owners = _scenes(name, config, encoder.vit.config.patch_size)
            features = [encoder.vit(_pixels(images[i : i + _BATCH], device)) for i in range(0, len(images), _BATCH)]
            self.sets.append((torch.cat(features).cpu().numpy(), scenes, owners))  # (n, h * w, D)

    def select(self, select: Callable[[np.ndarray, tuple[Scene, ...], np.ndarray], Labelled]) -> Sets:
        train, fit, asked = (select(*one) for one in self.sets)
        return train, fit, asked


def linear(sets: Sets) -> Found:
    """The linear probe of the encoder's features."""
    return linear_probe(*sets, limit=TRAINING_ITEMS, strengths=(0.001, 0.01, 0.1)), sets[2].images


def nearest(sets: Sets) -> Found:
    """The nearest neighbours among them."""
    return knn_probe(sets[0], sets[2], limit=TRAINING_ITEMS), sets[2].images


def _alone(features: np.ndarray, scenes: tuple[Scene, ...], label: Callable[[SceneObject], str]) -> Labelled:
    """Scenes of one object: all tokens of the image, averaged over 2 x 2 patches to keep the probe small."""
    count, patches, width = features.shape
    grid = int(patches**0.5)
    coarse = features.reshape(count, grid // 2, 2, grid // 2, 2, width).mean((2, 4)).reshape(count, -1)
    return Labelled(coarse, np.array([label(scene.objects[0]) for scene in scenes]), np.arange(count))


def _dense(
    features: np.ndarray, scenes: tuple[Scene, ...], owners: np.ndarray, label: Callable[[SceneObject], str]
) -> Labelled:
    names = np.array(
        [[label(scene.objects[o]) if o >= 0 else "" for o in row] for scene, row in zip(scenes, owners, strict=True)]
    )
    return Labelled.from_patches(features, names, owners >= 0)


def _pixels(images: np.ndarray, device: torch.device) -> torch.Tensor:
    from archlab.vl.encoder import normalise

    return normalise(torch.from_numpy(images).to(device))


@lru_cache(maxsize=8)
def _scenes(split: str, config: SceneConfig, patch: int) -> tuple[tuple[Scene, ...], np.ndarray, np.ndarray]:
    """Scenes, images and the object that owns each patch (n, h * w), -1 where none covers enough of it."""
    source, start = ("train", _COUNTS["train"]) if split == "fit" else (split, 0)
    image_size = config.image_size
    count = _COUNTS.get(split, _COUNTS["validation"])
    scenes = tuple(sample_scenes(count, config, split=source, start=start))
    maps = label_maps(scenes, image_size)
    grid = image_size // patch
    cells = (
        maps.reshape(len(scenes), grid, patch, grid, patch).transpose(0, 1, 3, 2, 4).reshape(len(scenes), -1, patch**2)
    )
    counts = np.stack([(cells == index).sum(-1) for index in range(config.max_objects)], -1)  # (n, h * w, objects)
    owners = np.where(counts.max(-1) >= _COVERED * patch**2, counts.argmax(-1), -1)
    return scenes, render(scenes, image_size), owners
