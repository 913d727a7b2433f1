"""Whether an exported run answers as the run in PyTorch: the same numbers to rounding, and the same words.

Shape legend: B samples, C candidates.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from archlab.errors import UserError
from archlab.evaluate.readout import EmbeddingReadout
from archlab.vl.answering import Answerer
from archlab.vl.decoding import collect

_TOLERANCE = 1e-3  # of the largest number of its kind, or of 1; decoding amplifies rounding step by step

# Of several lengths, more and fewer than the export has seen.
_QUERIES = ["what colour is the shape on the left?", "", "is it red?"]
_CANDIDATES = ["yes", "no", "a large red circle above a small blue square", "two"]

_Readings = dict[str, np.ndarray]


def compare(torch_run: Answerer, exported: Answerer) -> dict[str, float]:
    """Largest absolute differences, by quantity, on images of noise; batches of 3 and of 1.

    Raises:
        UserError: one of them is more than rounding, or the words differ.
    """
    differences: dict[str, float] = {}
    for samples in (3, 1):
        expected, found = _readings(torch_run, samples), _readings(exported, samples)
        for name, reference in expected.items():
            value = found[name]
            if value.shape != reference.shape:
                raise UserError(f"export: {name} has the shape {value.shape} and not {reference.shape} as in PyTorch")
            difference = float(np.abs(value - reference).max())
            differences[name] = max(differences.get(name, 0.0), difference)
            allowed = _TOLERANCE * max(1.0, float(np.abs(reference).max())) if reference.dtype.kind == "f" else 0
            if not difference <= allowed:
                raise UserError(
                    f"export: {name} differs by {difference:.2g} from PyTorch, which is more than rounding; please "
                    f"report it with your versions of torch, onnxscript and onnxruntime"
                )
    return differences


@torch.no_grad()
def _readings(answerer: Answerer, samples: int) -> _Readings:
    side = answerer.encoder.image_size
    images = np.random.default_rng(0).integers(0, 256, (samples, side, side, 3), np.uint8)
    readout = answerer.readout
    request = answerer.request(images, _QUERIES[:samples])
    readings: dict[str, Callable[[], np.ndarray]] = {
        "features": lambda: request.features.cpu().numpy(),
        "vectors of images": lambda: readout.image_vectors(request),
        "vectors of texts": lambda: readout.text_vectors(_CANDIDATES),
        "scores of candidates": lambda: next(iter(readout.choose(request, _CANDIDATES).values())),
        "decoded tokens": lambda: collect(readout.steps(request)).cpu().numpy(),
        "logits": lambda: np.stack([step.logits.cpu().numpy() for step in readout.steps(request)]),
    }
    if isinstance(readout, EmbeddingReadout):  # what it says of texts too, whose embeddings are the decoder's own
        texts = readout.text_vectors(_CANDIDATES)
        readings["decoded texts"] = lambda: collect(readout.decode_steps(texts)).cpu().numpy()
    return {name: reading() for name, reading in readings.items()}
