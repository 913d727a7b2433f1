"""What retrieval has to beat: ridge regression from gradients and colours of an image to the words of its caption.

python -m archlab.evaluate.retrieval_floor openstax-photo

Shape legend: B images, H x W pixels, c x c cells, D features of an image, V words.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from archlab.config import DataConfig
from archlab.data.example import Split
from archlab.data.sources import load_dataset
from archlab.errors import UserError
from archlab.evaluate.retrieval import LinearMap, retrieval_hits
from archlab.evaluate.vectors import cosine

_SIDE = 64
_CELL = 8
_ORIENTATIONS = 9
_COLOURS = 4  # levels per channel
_FORMS = {"first form": 0, "last form": -1}  # of a caption; OpenStax has the first sentence and the whole text


@dataclass(frozen=True)
class Floor:
    """Retrieval among the test captions.

    Attributes:
        recall: k -> share of images whose caption is among the first k, equal captions being right for each other.
        gallery: captions.
    """

    recall: dict[int, float]
    gallery: int


def retrieval_floor(source: str, form: int = 0) -> Floor:
    """Fit on the training split, choose the ridge on validation, retrieve the captions of the test split.

    Args:
        source: as `data.source`.
        form: which surface form of a caption stands for it; 0 is the canonical one.

    Raises:
        UserError: the data cannot be read, or a split has no captions.
    """
    dataset = load_dataset(DataConfig(source=source), _SIDE)
    found = {name: _captions(dataset[name], form, source) for name in ("train", "validation", "test")}
    words = TfidfVectorizer(sublinear_tf=True, min_df=2, stop_words="english")
    words.fit(found["train"][1])
    images = {name: describe(pictures) for name, (pictures, _) in found.items()}
    texts = {name: words.transform(captions).toarray() for name, (_, captions) in found.items()}
    fitted = LinearMap.fit(images["train"], texts["train"], images["validation"], texts["validation"])
    similarity = cosine(fitted(images["test"]), fitted.centre_targets(texts["test"]))
    _, groups = np.unique(found["test"][1], return_inverse=True)
    hits, _ = retrieval_hits(similarity, groups, groups)
    return Floor({k: float(values.mean()) for k, values in hits.items()}, len(groups))


def describe(images: np.ndarray) -> np.ndarray:
    """Histograms of oriented gradients in cells (Dalal and Triggs, 2005) beside colours: (B, D).

    Of colours mean and deviation in every cell, and a histogram of every quarter.

    Args:
        images: uint8 RGB (B, H, W, 3); cells of 8 pixels divide both sides.
    """
    grey = images.astype(np.float32).mean(3) / 255
    rows, columns = np.gradient(grey, axis=(1, 2))  # (B, H, W) each
    strength = np.hypot(rows, columns)
    angle = (np.arctan2(rows, columns) % np.pi * _ORIENTATIONS / np.pi).astype(int) % _ORIENTATIONS
    by_angle = np.where(angle[..., None] == np.arange(_ORIENTATIONS), strength[..., None], 0)  # (B, H, W, 9)
    count, height, width, _ = by_angle.shape
    cells = by_angle.reshape(count, height // _CELL, _CELL, width // _CELL, _CELL, _ORIENTATIONS).sum((2, 4))
    cells /= np.linalg.norm(cells, axis=-1, keepdims=True) + 0.1
    pixels = (images / np.float32(255)).reshape(count, height // _CELL, _CELL, width // _CELL, _CELL, 3)
    level = images.astype(int) * _COLOURS // 256 @ np.array([_COLOURS**2, _COLOURS, 1])  # (B, H, W)
    quarters = level.reshape(count, 2, height // 2, 2, width // 2).swapaxes(2, 3).reshape(4 * count, -1)
    colours = np.stack([np.bincount(one, minlength=_COLOURS**3) for one in quarters]) / quarters.shape[1]
    parts = [cells, pixels.mean((2, 4)), pixels.std((2, 4)), np.sqrt(colours)]
    features: np.ndarray = np.concatenate([part.reshape(count, -1) for part in parts], 1)
    return features


def _captions(split: Split, form: int, source: str) -> tuple[np.ndarray, list[str]]:
    """Images and captions, one of each per caption of the split."""
    chosen = [example for example in split.examples if example.task == "caption"]
    if not chosen:
        raise UserError(f"data.source={source!r}: its {split.name} split has no captions to retrieve")
    images = np.concatenate([split.images[one.image : one.image + 1] for one in chosen])
    return images, [one.targets[form] for one in chosen]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the floor of one source."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if len(given) != 1:
            raise UserError("retrieval_floor: needs one data source, such as openstax-photo")
        floors = {name: retrieval_floor(given[0], form) for name, form in _FORMS.items()}
    except UserError as error:
        print(f"retrieval_floor: error: {error}", file=sys.stderr)
        return 2
    for name, floor in floors.items():
        shown = ", ".join(f"R@{k} {100 * value:.1f} %" for k, value in floor.recall.items())
        print(f"image to text among {floor.gallery} captions, {name}: {shown}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
