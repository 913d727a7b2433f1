"""One question about one image, as `answer` and `compare` ask it: chosen among candidates, or spoken."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from archlab.serve.calls import Patience, probabilities
from archlab.serve.engine import Operation
from archlab.serve.model import Model


def needs(candidates: Sequence[str] | None) -> Operation:
    """What a model must be able to do to answer."""
    return "speak" if candidates is None else "choose"


def items(candidates: Sequence[str] | None) -> int:
    """As how many texts and images a question counts: its image, and each candidate."""
    return 1 + len(candidates or ())


async def ask(
    model: Model, pixels: np.ndarray, question: str, candidates: Sequence[str] | None, patience: Patience
) -> dict[str, Any]:
    """Ask a model.

    Returns:
        "answer", "confidence" from 0 to 1, "decode_steps" (none to choose), and the "candidates" with probabilities.
    """
    if candidates is None:
        (spoken,) = await model.speak([pixels], [question], **patience)
        return {
            "answer": spoken.text,
            "confidence": spoken.confidence,
            "decode_steps": spoken.steps,
            "candidates": None,
        }
    (scores,) = await model.choose([pixels], [question], [candidates], **patience)
    ranked = probabilities(candidates, scores)
    return {
        "answer": ranked[0]["text"],
        "confidence": ranked[0]["probability"],
        "decode_steps": 0,
        "candidates": ranked,
    }
