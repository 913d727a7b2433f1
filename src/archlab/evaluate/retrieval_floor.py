"""What retrieval has to beat: ridge regression from gradients and colours of an image to the words of its caption.

python -m archlab.evaluate.retrieval_floor openstax-photo

Shape legend: B images, H x W pixels, c x c cells, D features of an image, V words.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
from PIL import Image
from sklearn.feature_extraction.text import TfidfVectorizer

from archlab.config import DataConfig
from archlab.data.example import Dataset, Split
from archlab.data.sources import load_dataset
from archlab.errors import UserError
from archlab.evaluate.measure import Items, Measurement, add_retrieval
from archlab.evaluate.retrieval import KS, LinearMap
from archlab.evaluate.vectors import cosine

_SIDE = 64
_CELL = 8
_ORIENTATIONS = 9
_COLOURS = 4  # levels per channel
_CHUNK = 500  # images described together
_MOST = 20_000  # training captions, and
_WORDS = 5000  # words, the most frequent: what a regression can be solved with in seconds
_FORMS = {"first form": 0, "last form": -1}  # of a caption; OpenStax has the first sentence and the whole text


def retrieval_floor(dataset: Dataset, items: int, form: int = 0) -> Measurement:
    """Fit on the training split, choose the ridge on validation, retrieve among the captions that the arms retrieve.

    Args:
        dataset: of images, with captions in "train", "validation" and "test".
        items: captions of the test split, at most; see `Items.first`.
        form: which surface form of a caption stands for it; 0 is the canonical one.

    Returns:
        the metrics `retrieval/...` of an arm; none where no word occurs in two training captions.

    Raises:
        UserError: a split has no captions.
    """
    limits = {"train": _MOST, "validation": _MOST, "test": items}
    rows = {name: _captions(dataset[name], limit) for name, limit in limits.items()}
    texts = {name: [dataset[name].examples[row].targets[form] for row in chosen] for name, chosen in rows.items()}
    words = TfidfVectorizer(sublinear_tf=True, min_df=2, stop_words="english", max_features=_WORDS)
    result = Measurement()
    try:
        words.fit(texts["train"])
    except ValueError:  # no word is left
        return result
    vectors = {name: words.transform(found).toarray().astype(np.float32) for name, found in texts.items()}
    images = {name: described(dataset[name], chosen) for name, chosen in rows.items()}
    fitted = LinearMap.fit(images["train"], vectors["train"], images["validation"], vectors["validation"])
    similarity = cosine(fitted(images["test"]), fitted.centre_targets(vectors["test"]))
    add_retrieval(result, "retrieval", similarity, dataset["test"], rows["test"])
    return result


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


def _captions(split: Split, limit: int) -> np.ndarray:
    rows = Items.first(split, limit).captions
    if not len(rows):
        raise UserError(f"data: the {split.name} split has no captions to retrieve")
    return rows


def described(split: Split, rows: np.ndarray) -> np.ndarray:
    """`describe` of the images of some examples, each made 64 x 64 pixels: (B, D), float32."""
    parts = []
    for start in range(0, len(rows), _CHUNK):
        numbers = [split.examples[row].image for row in rows[start : start + _CHUNK]]
        images = [Image.fromarray(split.images[one : one + 1][0]).resize((_SIDE, _SIDE)) for one in numbers]
        parts.append(describe(np.stack([np.asarray(image) for image in images])))
    return np.concatenate(parts).astype(np.float32)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the floor of one source."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if len(given) != 1:
            raise UserError("retrieval_floor: needs one data source, such as openstax-photo")
        dataset = load_dataset(DataConfig(source=given[0]), _SIDE)
        floors = {name: retrieval_floor(dataset, _MOST, form) for name, form in _FORMS.items()}
        if not all(floor.values for floor in floors.values()):
            raise UserError(f"data.source={given[0]!r}: no word occurs in two training captions; give it more of them")
    except UserError as error:
        print(f"retrieval_floor: error: {error}", file=sys.stderr)
        return 2
    for name, floor in floors.items():
        recall = {k: floor.values[f"retrieval/image_to_text_r{k}"] for k in KS}
        shown = ", ".join(f"R@{k} {100 * hits.mean():.1f} %" for k, hits in recall.items())
        print(f"image to text among {len(recall[KS[0]])} captions, {name}: {shown}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
