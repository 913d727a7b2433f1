"""Blind controls, as what they change in a batch: keyword arguments of `data.batch.Collator`.

A control is a function (rows, images) -> changes. An arm whose score survives a control did not use what it removes.
The majority control needs no model and lives in `evaluate.vqa`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from archlab.errors import UserError

Condition = Callable[[np.ndarray, np.ndarray], dict[str, object]]


def derangement(count: int, seed: int) -> np.ndarray:
    """A permutation (count,) of images that leaves none in place: one random cycle through all of them.

    Images are permuted, not answers: the image shown may by luck have the same answer, with the probability that the
    data give it. Forbidding that would tell the arm which answer is wrong, and would score below a blind guess.

    Raises:
        UserError: fewer than two images.
    """
    if count < 2:
        raise UserError(f"shuffled-image control over {count} image(s): needs at least 2; add images to the split")
    order = np.random.default_rng(seed).permutation(count)
    other = np.empty(count, dtype=np.int64)
    other[order] = np.roll(order, 1)
    return other


def shuffled_image(count: int, seed: int) -> Condition:
    """Show another image of the split, the same one to all questions about an image.

    Args:
        count: images in the split.
    """
    other = derangement(count, seed)
    return lambda rows, images: {"images": other[images]}


def no_query(rows: np.ndarray, images: np.ndarray) -> dict[str, object]:
    """Ask nothing: the empty query in place of each sample's own."""
    return {"queries": [""] * len(rows)}
