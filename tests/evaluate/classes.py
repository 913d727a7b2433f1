"""A made-up set of pictures of known classes."""

from __future__ import annotations

import numpy as np

from archlab.data.example import Dataset, Example, Split

CLASSES = {"meadow": (0, 200, 0), "lake": (0, 0, 200), "sand": (200, 180, 60)}
SIZES = {"train": 150, "validation": 30, "test": 60}


def split_of(name: str, seed: int, told: bool = True) -> Split:
    """Noisy pictures, whose colour is that of their class; of another one, if they are not `told` what they show."""
    rng = np.random.default_rng(seed)
    named = rng.integers(len(CLASSES), size=SIZES[name])
    seen = named if told else rng.permutation(named)
    colours = np.array(list(CLASSES.values()))[seen][:, None, None]
    images = np.clip(colours + rng.normal(0, 40, (len(named), 64, 64, 3)), 0, 255).astype(np.uint8)
    classes = [list(CLASSES)[one] for one in named]
    examples = [Example(f"{name}-{row}", row, "vqa", "class", ["what?"], [one], one) for row, one in enumerate(classes)]
    return Split(name, images, examples, f"{name} {seed} {told}", "")


def classes_of(name: str, seed: int = 0, told: bool = True) -> Dataset:
    """A set with three splits; see `split_of`."""
    return Dataset(name, {split: split_of(split, seed + number, told) for number, split in enumerate(SIZES)})
