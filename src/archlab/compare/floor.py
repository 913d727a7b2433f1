"""What simple means retrieve on the data of a comparison; see `evaluate.retrieval_floor`."""

from __future__ import annotations

from archlab.config import CompareConfig
from archlab.evaluate.measure import Measurement
from archlab.train.setup import Setup


def why_no_floor(setup: Setup, config: CompareConfig) -> str:
    """Why none is measured, or nothing where it is."""
    if setup.dataset.name == "scenes":
        return "the built-in scenes have blind controls and a supervised head instead"
    if config.run.data.frames:
        return "it describes images, not clips"
    if missing := [name for name in ("train", "validation", "test") if name in setup.uncaptioned]:
        return f"there are no captions in {' and '.join(missing)}"
    return ""


def measure_floor(setup: Setup, config: CompareConfig) -> Measurement:
    """Retrieval of the captions that the arms retrieve; see `why_no_floor`."""
    from archlab.evaluate.retrieval_floor import retrieval_floor  # imports scikit-learn, which takes a second

    return retrieval_floor(setup.dataset, config.test_items)
